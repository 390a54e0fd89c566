//! Seed 0.

use std::collections::BTreeMap;

use ssw_core::{MergeInto, RefusalCause};

use super::{
    CallApiSide, CstaSide, EventFrame, EventShape, HttpCall, Names, OperationShape, RecordShape, RequestShape, SimDialect, TerminalSide,
    TimeFormat,
};

const MEMBER: &str = "conference=conference_id participant=participant_id";
const LEG: &str = "call=call_id leg=leg_id";
const PAIR: &str = "call=held_call leg=held_leg other_call=active_call other_leg=active_leg";
const CONFERENCE: &str = "conference=conference_id";

/// (operation, service, command name, request fields, result fields, record)
const OPERATIONS: [(&str, &str, &str, &str, &str, &str); 37] = [
    ("call_make", "call", "call_make", "from=from to=to", "call=call_id leg=leg_id", ""),
    ("call_answer", "call", "call_answer", LEG, "", ""),
    ("call_reject", "call", "call_reject", LEG, "", ""),
    ("call_release_leg", "call", "leg_release", LEG, "", ""),
    ("call_release", "call", "call_release", "call=call_id", "", ""),
    ("call_hold", "call", "call_hold", LEG, "", ""),
    ("call_retrieve", "call", "call_unhold", LEG, "", ""),
    ("call_transfer_blind", "call", "call_ctr", "call=call_id leg=leg_id to=number", "", ""),
    ("call_consult", "call", "call_consult", "call=call_id leg=leg_id to=number", "call=call_id leg=leg_id", ""),
    ("call_transfer_complete", "call", "ctr_complete", PAIR, "call=call_id", ""),
    ("call_transfer_cancel", "call", "ctr_cancel", PAIR, "", ""),
    ("call_join", "call", "call_3way", PAIR, "call=call_id", ""),
    ("call_deflect", "call", "call_deflect", "call=call_id leg=leg_id to=number", "", ""),
    ("call_dtmf", "call", "call_dtmf", "call=call_id leg=leg_id digits=digits", "", ""),
    (
        "call_list",
        "call",
        "calls_list",
        "",
        "call=call_id leg=id device=digits direction=direction remote=remote_digits leg_state=status answered_at=answer_time",
        "leg",
    ),
    (
        "conference_create",
        "teleconference",
        "conference_create",
        "name=name initiator=initiator room=room template=template groups=groups members=numbers limit=limit",
        CONFERENCE,
        "",
    ),
    ("conference_invite", "teleconference", "member_add", "conference=conference_id to=number role=role", "participant=participant_id", ""),
    ("conference_cancel_invitation", "teleconference", "member_cancel", MEMBER, "", ""),
    ("conference_remove", "teleconference", "member_remove", MEMBER, "", ""),
    ("conference_mute", "teleconference", "mic_off", MEMBER, "", ""),
    ("conference_unmute", "teleconference", "mic_on", MEMBER, "", ""),
    ("conference_ask_to_unmute", "teleconference", "mic_ask", MEMBER, "", ""),
    ("conference_mute_all", "teleconference", "mic_off_all", "conference=conference_id may_unmute=self_unmute", "", ""),
    ("conference_grant_floor", "teleconference", "voice_grant", MEMBER, "", ""),
    ("conference_deny_floor", "teleconference", "voice_deny", MEMBER, "", ""),
    ("conference_set_role", "teleconference", "role_set", "conference=conference_id participant=participant_id role=role", "", ""),
    ("conference_lock", "teleconference", "conference_lock", CONFERENCE, "", ""),
    ("conference_unlock", "teleconference", "conference_unlock", CONFERENCE, "", ""),
    ("conference_hold", "teleconference", "member_hold", MEMBER, "", ""),
    ("conference_retrieve", "teleconference", "member_unhold", MEMBER, "", ""),
    (
        "conference_move",
        "teleconference",
        "member_move",
        "conference=conference_id participant=participant_id other_conference=to_conference_id",
        "participant=participant_id",
        "",
    ),
    ("conference_start_recording", "teleconference", "record_start", CONFERENCE, "", ""),
    ("conference_pause_recording", "teleconference", "record_pause", CONFERENCE, "", ""),
    ("conference_resume_recording", "teleconference", "record_resume", CONFERENCE, "", ""),
    ("conference_stop_recording", "teleconference", "record_stop", CONFERENCE, "", ""),
    ("conference_extend", "teleconference", "conference_extend", "conference=conference_id seconds=seconds", "", ""),
    ("conference_end", "teleconference", "conference_stop", CONFERENCE, "", ""),
];

/// (kind, service, name, record, fields)
const EVENTS: [(&str, &str, &str, &str, &str); 7] = [
    (
        "leg",
        "call",
        "conversations_event",
        "leg",
        "call=call_id leg=id device=digits direction=direction remote=remote_digits leg_state=status answered_at=answer_time cause=cause at=time",
    ),
    (
        "merged",
        "call",
        "calls_merged_event",
        "calls",
        "call=held_call other_call=active_call into_call=call_id device=leaving cause=cause at=time",
    ),
    ("call_released", "call", "call_ended_event", "call", "call=call_id cause=cause at=time"),
    (
        "conference",
        "teleconference",
        "conference_event",
        "conference",
        "conference=conference_id name=name room=room started_at=started ends_at=ends limit=limit locked=locked recording=recording may_unmute=self_unmute at=time",
    ),
    ("conference_ended", "teleconference", "conference_ended_event", "conference", "conference=conference_id at=time"),
    (
        "participant",
        "teleconference",
        "participant_event",
        "participant",
        "conference=conference_id participant=participant_id number=number name=name role=role status=state voice=mic floor=voice_request talking=talking cause=cause at=time",
    ),
    (
        "participant_left",
        "teleconference",
        "participant_disconnected_event",
        "participant",
        "conference=conference_id participant=participant_id cause=cause at=time",
    ),
];

const WORDS: [(&str, &str); 7] = [
    ("boolean", "true=true false=false"),
    ("leg_state", "initiated=initiated alerting=alerting queued=queued connected=talking held=held failed=failed released=released"),
    ("direction", "originating=out terminating=in"),
    (
        "participant_status",
        "pending=pending dialing_out=calling dialing_in=dialing alerting=ringing on_hold=hold connected=connected disconnecting=disconnecting disconnected=disconnected",
    ),
    ("role", "participant=participant presenter=presenter"),
    ("recording", "off=off on=on paused=paused"),
    (
        "cause",
        "normal=normal busy=busy no_answer=no_answer rejected=rejected caller_gave_up=cancelled answered_elsewhere=answered_elsewhere unobtainable=unobtainable redirected=redirected transfer=transfer conference=conference no_resources=no_resources other=other",
    ),
];

/// `a=b c=d` as a map.
pub(super) fn names(text: &str) -> Names {
    text.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn record(element: &str, fields: &str) -> RecordShape {
    RecordShape { element: element.to_owned(), fields: names(fields) }
}

/// (command, element, attributes, element inside, its attributes)
const REQUESTS: [(&str, &str, &str, &str, &str); 6] = [
    ("alias_profile_list", "request", "domain=domain", "", ""),
    ("conference_list", "request", "domain=domain", "", ""),
    ("ss_package_list", "request", "domain=domain", "", ""),
    ("get_extended_subscriber_card", "request", "domain=domain address=address", "", ""),
    ("sip_user_declare", "request", "domain=domain", "alias", "domain=domain interface=interface address=address active=active"),
    ("calls_history", "request", "kind=type fax=fax from=from to=to address=address", "domain", "domain=name limit=limit"),
];

fn requests() -> BTreeMap<String, RequestShape> {
    let shape = |(command, element, fields, child, inside): (&str, &str, &str, &str, &str)| {
        let child = (!child.is_empty()).then(|| record(child, inside));
        (command.to_owned(), RequestShape { element: element.to_owned(), fields: names(fields), child })
    };
    REQUESTS.into_iter().map(shape).collect()
}

fn http(method: &str, path: &str) -> HttpCall {
    HttpCall { method: method.to_owned(), path: path.to_owned() }
}

pub(super) fn base() -> SimDialect {
    let operations = OPERATIONS.map(|(key, service, name, fields, result, record)| {
        let shape = OperationShape {
            service: service.to_owned(),
            name: name.to_owned(),
            fields: names(fields),
            fixed: Names::new(),
            result: names(result),
            record: (!record.is_empty()).then(|| record.to_owned()),
        };
        (key.to_owned(), shape)
    });
    let events = EVENTS.map(|(key, service, name, record, fields)| {
        let shape = EventShape { service: service.to_owned(), name: name.to_owned(), record: record.to_owned(), fields: names(fields) };
        (key.to_owned(), shape)
    });
    SimDialect {
        seed: 0,
        name: "sim".to_owned(),
        terminal: terminal(),
        call_api: call_api(),
        csta: CstaSide {
            length_whole: true,
            namespace: "http://www.ecma-international.org/standards/ecma-323/csta/ed3".to_owned(),
            keepalive: "<keepalive />".to_owned(),
            keepalive_interval_s: 5,
            device: "{alias}".to_owned(),
            auto_originate: "prompt".to_owned(),
            generate_digits: true,
        },
        operations: operations.into(),
        events: events.into(),
        words: WORDS.map(|(vocabulary, words)| (vocabulary.to_owned(), names(words))).into(),
        refusals: RefusalCause::ALL.map(|cause| (cause, cause.word().to_owned())).into(),
        merge_into: MergeInto::Held,
    }
}

fn terminal() -> TerminalSide {
    TerminalSide {
        session_cookie: "ECSSSESSION".to_owned(),
        keepalive: Some(http("GET", "/system/ping")),
        keepalive_interval_s: 5,
        liveness_command: "check_connection".to_owned(),
        expired_status: 401,
        expired_word: "session_expired".to_owned(),
        expired_without_document: false,
        logout: http("POST", "/system/logout"),
        progress_method: "GET".to_owned(),
        progress_path: "/commands/{name}/progress/{request_id}".to_owned(),
        progress_interval_ms: 50,
        confirm_name: "P-Confirm".to_owned(),
        confirm_value: "yes".to_owned(),
        utc_offset_minutes: 180,
        error_cause: "cause".to_owned(),
        requests: requests(),
        aliases: record("alias", "domain=domain address=address interface=interface interface_type=interface_type"),
        calls: record(
            "call",
            "id=call_id from=from to=to answered_by=answered_by start=start answer=answer end=end duration=duration cause=cause",
        ),
        conferences: record(
            "conference",
            "id=space name=name room=room count=legs_count limit=calls_limit start=timestamp ends_at=ends locked=locked recording=recording may_unmute=self_unmute",
        ),
        meetings: record("meeting", "id=id name=name description=description"),
        members: record(
            "member",
            "id=id number=number name=name voice=voice state=state master=master hold=hold floor=voice_request talking=talking",
        ),
    }
}

fn call_api() -> CallApiSide {
    CallApiSide {
        login_path: "/{domain}/service/cc/arm/login".to_owned(),
        login_attributes: names("login={login} password={password} websocket_control=true"),
        session_cookie: "ECSSAPI".to_owned(),
        expired_status: 401,
        expired_word: "session_expired".to_owned(),
        expired_without_document: false,
        logout: http("POST", "/{domain}/service/logout"),
        command_path: "/{domain}/service/{service}/{command}".to_owned(),
        websocket_path: "/{domain}/service/websocket".to_owned(),
        pad: ' ',
        length_in_bytes: true,
        name_prefix: "{service}/".to_owned(),
        event_frame: EventFrame::RequestId("0000".to_owned()),
        keepalive_command: None,
        keepalive_interval_s: 5,
        list_separator: ",".to_owned(),
        time_format: TimeFormat::YmdSlash,
        utc_offset_minutes: 180,
    }
}
