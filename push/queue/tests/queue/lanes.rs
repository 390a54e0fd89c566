//! Order, isolation, deadlines and back-off.

use push_core::{Outcome, Reason};
use push_queue::{Refused, State};
use push_stub::Answer;

use super::*;

#[tokio::test]
async fn calls_go_before_all_others_and_messages_before_what_nobody_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 1);
    let (pushes, _) = open(directory.path(), options(), senders([("app", &stub)]));
    stub.hold();
    pushes.accept(vec![job("app", "busy", Class::Background)]).await.unwrap();
    stub.until(|counts| counts.begun == 1).await;
    for (token, class) in [("b1", Class::Background), ("i1", Class::Interactive), ("b2", Class::Background), ("call", Class::Call)] {
        pushes.accept(vec![job("app", token, class)]).await.unwrap();
    }
    stub.until(|counts| counts.waited == 1).await;
    stub.release();
    eventually("all are accepted", || pushes.snapshot().waiting() == 0).await;
    assert_eq!(given(&stub), ["busy", "call", "i1", "b1", "b2"]);
}

#[tokio::test]
async fn trial_13_a_provider_that_fails_or_hangs_delays_no_push_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let (failing, hanging, well) = (Stub::new(Provider::Apns, 100), Stub::new(Provider::Web, 100), Stub::new(Provider::Fcm, 100));
    failing.otherwise(Answer::retry_after(None));
    hanging.hold();
    let senders = senders([("failing", &failing), ("hanging", &hanging), ("well", &well)]);
    let (pushes, _) = open(directory.path(), options(), senders);
    for number in 0..500 {
        let token = format!("t{number}");
        pushes.accept(["failing", "hanging", "well"].map(|name| job(name, &token, Class::Background)).into()).await.unwrap();
    }
    eventually("the one that is well has sent all", || pushes.snapshot().count("well", Class::Background, State::Accepted) == 500).await;
    let snapshot = pushes.snapshot();
    assert_eq!(snapshot.waiting(), 1000);
    assert!(snapshot.count("failing", Class::Background, State::Retried) > 0);
    assert!(failing.counts().begun < 500, "a provider in trouble is not hammered: {:?}", failing.counts());
}

#[tokio::test(start_paused = true)]
async fn trial_15_past_its_deadline_a_call_is_dropped_and_counted_also_when_its_attempt_failed() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Apns, 10);
    stub.set_connected(false);
    let options = options();
    let (pushes, _) = open(directory.path(), options.clone(), senders([("app", &stub)]));
    let call = job("app", "a", Class::Call).with_deadline(&options, Duration::from_secs(30));
    let text = job("app", "b", Class::Interactive).with_deadline(&options, Duration::from_secs(3600));
    pushes.accept(vec![call.clone(), text.clone()]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(31)).await;
    eventually("the call expires", || pushes.state(call.request.id) == Some(State::Expired)).await;
    let attempts = stub.counts().begun;
    stub.set_connected(true);
    eventually("the text is sent", || pushes.state(text.request.id) == Some(State::Accepted)).await;
    assert!(attempts > 2);
    assert!(given(&stub).iter().skip(attempts as usize).all(|token| token == "b"), "a call was sent late");
    assert_eq!(pushes.snapshot().count("app", Class::Call, State::Expired), 1);
}

#[tokio::test(start_paused = true)]
async fn trial_15_many_calls_that_expire_while_nobody_sends_are_all_counted_and_none_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Apns, 10);
    let options = options();
    let (pushes, _) = open(directory.path(), options.clone(), senders([("app", &stub)]));
    stub.hold();
    let calls = |count: usize| {
        (0..count).map(|number| job("app", &format!("t{number}"), Class::Call).with_deadline(&options, Duration::from_secs(20)))
    };
    pushes.accept(calls(3000).collect()).await.unwrap();
    eventually("some are under way", || stub.counts().begun == 10).await;
    tokio::time::sleep(Duration::from_secs(21)).await;
    stub.release();
    eventually("nothing waits", || pushes.snapshot().waiting() == 0).await;
    let snapshot = pushes.snapshot();
    let (expired, accepted) = (snapshot.count("app", Class::Call, State::Expired), snapshot.count("app", Class::Call, State::Accepted));
    assert_eq!(expired + accepted, 3000);
    // Those that the sender had taken before were not late when they were handed over.
    assert!(accepted <= 12, "{accepted}");
}

#[tokio::test]
async fn with_no_room_at_the_provider_a_push_waits_and_goes_when_there_is_some() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 0);
    let (pushes, _) = open(directory.path(), options(), senders([("app", &stub)]));
    let jobs: Vec<_> = (0..20).map(|number| job("app", &format!("t{number}"), Class::Background)).collect();
    pushes.accept(jobs).await.unwrap();
    stub.until(|counts| counts.waited == 1).await;
    stub.set_concurrent(5);
    eventually("all are sent", || pushes.snapshot().waiting() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_gets_too_many_waits_alone() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Apns, 1);
    stub.script("much", [Answer::throttled(Some(Duration::from_secs(30)), true)]);
    let (pushes, _) = open(directory.path(), options(), senders([("app", &stub)]));
    let first = job("app", "much", Class::Background);
    pushes.accept(vec![first.clone()]).await.unwrap();
    eventually("it is throttled", || pushes.state(first.request.id) == Some(State::Retried)).await;
    let (second, other) = (job("app", "much", Class::Background), job("app", "other", Class::Background));
    pushes.accept(vec![second, other.clone()]).await.unwrap();
    eventually("the other is sent", || pushes.state(other.request.id) == Some(State::Accepted)).await;
    eventually("all are sent in the end", || pushes.snapshot().waiting() == 0).await;
    let given = stub.given();
    assert_eq!(given.iter().map(|given| token_of(&given.request)).collect::<Vec<_>>()[..2], ["much", "other"]);
    assert!(given[2].at.duration_since(given[0].at) >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_time_that_the_provider_names_is_waited_for_and_attempts_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Fcm, 10);
    stub.otherwise(Answer::retry_after(Some(Duration::from_secs(5))));
    let options = Options { attempts: 4, ..options() };
    let (pushes, _) = open(directory.path(), options, senders([("app", &stub)]));
    let job = job("app", "a", Class::Background);
    pushes.accept(vec![job.clone()]).await.unwrap();
    eventually("it fails", || pushes.state(job.request.id) == Some(State::Failed)).await;
    let given = stub.given();
    assert_eq!(given.len(), 4);
    assert!(given.windows(2).all(|two| two[1].at.duration_since(two[0].at) >= Duration::from_secs(5)));
    let history = pushes.history(job.request.id).await.unwrap().unwrap();
    assert_eq!((history.state(), history.moments.last().unwrap().attempt), (State::Failed, 4));
}

#[tokio::test(start_paused = true)]
async fn pushes_outlive_expired_credentials_and_go_at_once_with_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let expired = Stub::new(Provider::Apns, 10);
    expired.otherwise(Answer::of(Outcome::CredentialsExpired { reason: Reason::known("ExpiredProviderToken") }));
    let (pushes, _) = open(directory.path(), options(), senders([("app", &expired)]));
    let jobs: Vec<_> = (0..50).map(|number| job("app", &format!("t{number}"), Class::Interactive)).collect();
    pushes.accept(jobs).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(pushes.snapshot().waiting(), 50);
    let mended = Stub::new(Provider::Apns, 10);
    pushes.set_senders(&senders([("app", &mended)]));
    eventually("all are sent", || pushes.snapshot().waiting() == 0).await;
    assert_eq!(mended.counts().begun, 50);
}

#[tokio::test(start_paused = true)]
async fn pushes_of_an_application_without_sender_wait_until_their_deadlines() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 1);
    stub.hold();
    let options = options();
    let (pushes, _) = open(directory.path(), options.clone(), senders([("app", &stub)]));
    let job_until = |seconds| job("app", "a", Class::Background).with_deadline(&options, Duration::from_secs(seconds));
    pushes.accept(vec![job_until(5000), job_until(10), job_until(4000)]).await.unwrap();
    pushes.close(Duration::ZERO).await;
    drop(pushes);
    let (pushes, recovered) = reopen(directory.path(), options.clone(), Senders::new()).await;
    assert_eq!(recovered.without_sender, [(app("app"), 3)]);
    let refused = pushes.accept(vec![job_until(10)]).await;
    assert!(matches!(refused, Err(Refused::UnknownApp { .. })));
    tokio::time::sleep(Duration::from_secs(20)).await;
    eventually("one expires", || pushes.snapshot().waiting() == 2).await;
    assert!(!pushes.snapshot().apps[0].has_sender);
    stub.release();
    pushes.set_senders(&senders([("app", &stub)]));
    eventually("the others are sent", || pushes.snapshot().waiting() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_its_sender_never_ends_is_given_up_and_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 10);
    stub.script("a", [Answer::accepted().after(Duration::from_secs(100_000))]);
    let (pushes, _) = open(directory.path(), options(), senders([("app", &stub)]));
    let job = job("app", "a", Class::Background);
    pushes.accept(vec![job.clone()]).await.unwrap();
    eventually("it is sent", || pushes.state(job.request.id) == Some(State::Accepted)).await;
    assert_eq!((given(&stub).len(), pushes.snapshot().possible_duplicates), (2, 1));
}
