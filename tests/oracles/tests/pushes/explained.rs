//! What is known about each difference.

use oracles::table::{Explanation, Kind};

pub const APNS: &[Explanation] = &[
    Explanation::new(
        "header.content-type",
        Kind::AlwaysSays,
        "Apple's reference has no such header field: the body is always JSON. Ours leaves it out, which is one field less to write in each push.",
    ),
    Explanation::new(
        "header.content-length",
        Kind::AlwaysSays,
        "HTTP/2 marks the end of a body itself (RFC 9113, 8.1.1), and Apple does not ask for it.",
    ),
    Explanation::new(
        "body.aps.mutable-content",
        Kind::AlwaysSays,
        "a2's builder writes 0 where nobody asked for it; 0 is what Apple assumes. Ours writes 1 or nothing.",
    ),
    Explanation::new("body.aps.thread-id", Kind::CannotSay, "a2's `APS` has no such member; only a payload type of one's own has it."),
    Explanation::new(
        "body.aps.alert",
        Kind::OnPurpose,
        "Apple takes a text or an object. Ours always writes the object, so that clients read one shape.",
    ),
    Explanation::new("body.aps.alert.subtitle-loc-key", Kind::CannotSay, "a2's `DefaultAlert` has no such member."),
    Explanation::new("body.aps.alert.subtitle-loc-args", Kind::CannotSay, "a2's `DefaultAlert` has no such member."),
    Explanation::new("body.aps.interruption-level", Kind::CannotSay, "a2's `APS` has no such member (since iOS 15)."),
    Explanation::new("body.aps.relevance-score", Kind::CannotSay, "a2's `APS` has no such member (since iOS 15)."),
    Explanation::new("body.aps.target-content-id", Kind::CannotSay, "a2's `APS` has no such member."),
    Explanation::new("body.aps.filter-criteria", Kind::CannotSay, "a2's `APS` has no such member (since iOS 16)."),
    Explanation::of(
        "header.apns-priority",
        "\"1\"",
        Kind::CannotSay,
        "a2's `Priority` has 10 and 5. Without the field Apple takes 10: the opposite of what is meant.",
    ),
    Explanation::of(
        "header.apns-priority",
        "\"5\"",
        Kind::OnPurpose,
        "Apple refuses a background push of priority 10. Ours lowers it, a2 sends what will be refused.",
    ),
    Explanation::of("header.apns-push-type", "\"complication\"", Kind::CannotSay, "a2's `PushType` has no such variant."),
    Explanation::of("header.apns-push-type", "\"widgets\"", Kind::CannotSay, "a2's `PushType` has no such variant."),
    Explanation::of("header.apns-push-type", "\"controls\"", Kind::CannotSay, "a2's `PushType` has no such variant."),
    Explanation::new(
        "device",
        Kind::OnPurpose,
        "One device has one token, however the client writes it: ours is kept in small letters. The digits mean the same.",
    ),
];

pub const APNS_REFUSALS: &[Explanation] = &[
    Explanation::new(
        "collapse id not ASCII",
        Kind::OnPurpose,
        "Header fields are ASCII (RFC 9110, 5.5), and Apple counts octets, not letters.",
    ),
    Explanation::new(
        "collapse id with a blank",
        Kind::OnPurpose,
        "Keys are ids of calls and rooms: printable ASCII without blanks is all that ours takes.",
    ),
    Explanation::new("collapse id empty", Kind::OnPurpose, "An empty key means none; the agent never sends an empty header field."),
    Explanation::new("alert of 4097 octets", Kind::OnPurpose, "Apple takes 4096 octets; a2 does not look and gets 413."),
    Explanation::new("voip of 5121 octets", Kind::OnPurpose, "Apple takes 5120 octets of a VoIP push; a2 does not look and gets 413."),
    Explanation::new("token not hexadecimal", Kind::OnPurpose, "Refused when the device is registered; a2 puts it into the path as it is."),
    Explanation::new(
        "token of an odd length",
        Kind::OnPurpose,
        "Refused when the device is registered; a2 puts it into the path as it is.",
    ),
    Explanation::new("token empty", Kind::OnPurpose, "Refused when the device is registered; a2 asks for a path without device."),
    Explanation::new(
        "data named aps",
        Kind::OnPurpose,
        "Ours drops it: the name is Apple's. a2 writes the member twice, and which one counts is the reader's choice.",
    ),
];

pub const APNS_ANSWERS: &[Explanation] = &[
    Explanation::new(
        "410 ExpiredToken",
        Kind::CannotSay,
        "a2's enum of reasons has no such variant, so its answer has neither reason nor time.",
    ),
    Explanation::new("400 InvalidPushType", Kind::CannotSay, "a2's enum of reasons has no such variant; ours names the reason."),
    Explanation::new("403 BadEnvironmentKeyIdInToken", Kind::CannotSay, "a2's enum of reasons has no such variant; ours names the reason."),
    Explanation::new("403 UnrelatedKeyIdInToken", Kind::CannotSay, "a2's enum of reasons has no such variant; ours names the reason."),
    Explanation::new(
        "400 SomethingNew",
        Kind::CannotSay,
        "What a2 does not know it drops; ours keeps it as text and judges by the status.",
    ),
    Explanation::new("403 SomethingNew", Kind::CannotSay, "As for 400."),
    Explanation::new("410 SomethingNew", Kind::CannotSay, "As for 400; the token is gone all the same, and ours knows since when."),
    Explanation::new("429 SomethingNew", Kind::CannotSay, "As for 400."),
    Explanation::new("503 SomethingNew", Kind::CannotSay, "As for 400."),
];

pub const FCM: &[Explanation] = &[
    Explanation::new(
        "message.notification",
        Kind::AlwaysSays,
        "fcm-rs writes null for what is not there; FCM takes it for absent. Ours writes nothing: a data message must have no notification.",
    ),
    Explanation::new("message.notification.body", Kind::AlwaysSays, "fcm-rs writes null for what is not there."),
    Explanation::new(
        "message.token",
        Kind::CannotSay,
        "fcm-rs's only target is `token`. Its documentation allows a topic's name in it, which FCM refuses; without one it writes null.",
    ),
    Explanation::new("message.topic", Kind::CannotSay, "fcm-rs's `Message` has no topic."),
    Explanation::new("message.condition", Kind::CannotSay, "fcm-rs's `Message` has no condition."),
    Explanation::of(
        "message.android.priority",
        "\"HIGH\"",
        Kind::CannotSay,
        "fcm-rs's `Message` has no android block. A data message is then of normal priority and does not wake a phone that dozes: no call rings.",
    ),
    Explanation::new(
        "message.android.priority",
        Kind::CannotSay,
        "fcm-rs's `Message` has no android block; what FCM does without it depends on what the message is.",
    ),
    Explanation::new(
        "message.android.ttl",
        Kind::CannotSay,
        "Without it FCM keeps a message for four weeks: a call would ring when the phone is switched on again.",
    ),
    Explanation::new(
        "message.android.collapse_key",
        Kind::CannotSay,
        "Without it a cancel stands beside the call or invitation that waits at FCM, instead of replacing it.",
    ),
    Explanation::new("message.android.direct_boot_ok", Kind::CannotSay, "fcm-rs's `Message` has no android block."),
    Explanation::new("message.android.notification.*", Kind::CannotSay, "fcm-rs's `Message` has no android block."),
    Explanation::new("message.apns.*", Kind::CannotSay, "fcm-rs's `Message` has no block for APNs."),
    Explanation::new("message.webpush.*", Kind::CannotSay, "fcm-rs's `Message` has no block for browsers."),
    Explanation::new("message.fcm_options.*", Kind::CannotSay, "fcm-rs's `Message` has no options."),
];

pub const FCM_REFUSALS: &[Explanation] = &[
    Explanation::new("data of 4097 octets", Kind::OnPurpose, "FCM takes 4096 octets; fcm-rs does not look and gets 400."),
    Explanation::new("a number in data", Kind::OnPurpose, "FCM's `data` has strings only; fcm-rs takes any JSON and gets 400."),
    Explanation::new("data that is a list", Kind::OnPurpose, "FCM's `data` is an object; fcm-rs takes any JSON and gets 400."),
    Explanation::new("a reserved name in data", Kind::OnPurpose, "FCM keeps such names for itself; fcm-rs does not look and gets 400."),
    Explanation::new("token empty", Kind::OnPurpose, "Refused when the device is registered; fcm-rs does not look."),
    Explanation::new("token with a slash", Kind::OnPurpose, "Refused when the device is registered; fcm-rs does not look."),
];

pub const FCM_ANSWERS: &[Explanation] = &[
    Explanation::new(
        "400 INVALID_ARGUMENT without details",
        Kind::CannotSay,
        "fcm-rs demands `details`, which FCM's general errors do not have.",
    ),
    Explanation::new("500 INTERNAL without details", Kind::CannotSay, "fcm-rs demands `details`, which FCM's general errors do not have."),
    Explanation::new(
        "503 UNAVAILABLE in a list",
        Kind::CannotSay,
        "Google's front ends wrap an error in a list now and then; fcm-rs cannot read that.",
    ),
    Explanation::new(
        "502 as a page of HTML",
        Kind::CannotSay,
        "fcm-rs looks at no status and no Retry-After, only at a JSON body. Ours goes by the status: try again.",
    ),
];
