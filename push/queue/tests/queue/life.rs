//! One push's life: acceptance, duplicates, cancellation, replacement, history.

use push_core::{Outcome, Reason};
use push_queue::{Cancelled, Receipt, Refused, State, Watched};
use push_stub::Answer;

use super::*;

#[tokio::test]
async fn an_accepted_push_is_sent_counted_told_and_found_in_the_history() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 10);
    stub.script("a", [Answer::of(Outcome::Accepted { provider_id: Some("provider-1".to_owned()) })]);
    let (pushes, recovered) = open(directory.path(), options(), senders([("app", &stub)]));
    assert_eq!(recovered.waiting, 0);
    let mut watch = pushes.watch();
    let job = job("app", "a", Class::Interactive);
    let id = job.request.id;
    assert_eq!(pushes.accept(vec![job.clone()]).await.unwrap(), [Receipt { id, duplicate: None }]);
    let mut states = Vec::new();
    while states.last() != Some(&State::Accepted) {
        let Some(Watched::Life(life)) = watch.next().await else { panic!("nothing more") };
        assert_eq!((life.id, &life.user, &life.device), (id, &job.user, &job.device));
        states.push(life.state);
    }
    assert_eq!(states, [State::Received, State::Stored, State::Sent, State::Accepted]);
    assert_eq!(stub.given()[0].request.payload, job.request.payload);
    let history = pushes.history(id).await.unwrap().unwrap();
    assert_eq!(history.moments.iter().map(|it| it.state).collect::<Vec<_>>(), [State::Stored, State::Sent, State::Accepted]);
    assert_eq!(history.moments[2].provider_id.as_deref(), Some("provider-1"));
    let of_device = pushes.history_of_device(job.device.as_ref().unwrap(), 10).await.unwrap();
    assert_eq!(of_device, [history]);
    assert_eq!(pushes.history(PushId::new()).await.unwrap(), None);
    assert_eq!(pushes.snapshot().count("app", Class::Interactive, State::Accepted), 1);
    pushes.close(Duration::from_secs(5)).await;
    assert_eq!(pushes.accept(vec![job]).await.unwrap_err(), Refused::Closed);
}

#[tokio::test]
async fn the_same_id_twice_is_one_push_whether_it_waits_or_has_ended_or_the_queue_was_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 10);
    stub.hold();
    let (pushes, _) = open(directory.path(), options(), senders([("app", &stub)]));
    let job = job("app", "a", Class::Call);
    let receipts = pushes.accept(vec![job.clone(), job.clone()]).await.unwrap();
    assert_eq!(receipts.iter().map(|it| it.duplicate).collect::<Vec<_>>(), [None, Some(State::Received)]);
    stub.until(|counts| counts.begun == 1).await;
    assert_eq!(pushes.accept(vec![job.clone()]).await.unwrap()[0].duplicate, Some(State::Sent));
    stub.release();
    eventually("accepted", || pushes.state(job.request.id) == Some(State::Accepted)).await;
    assert_eq!(pushes.accept(vec![job.clone()]).await.unwrap()[0].duplicate, Some(State::Accepted));
    pushes.close(Duration::from_secs(5)).await;
    let (pushes, recovered) = reopen(directory.path(), options(), senders([("app", &stub)])).await;
    assert_eq!((recovered.waiting, recovered.possible_duplicates), (0, 0));
    assert_eq!(pushes.accept(vec![job.clone()]).await.unwrap()[0].duplicate, Some(State::Accepted));
    assert_eq!(stub.counts().begun, 1);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_whole_and_calls_have_places_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 1);
    stub.hold();
    let options = Options { most_pushes: 4, call_pushes: 2, ..options() };
    let (pushes, _) = open(directory.path(), options.clone(), senders([("app", &stub)]));
    let others = |count: usize| (0..count).map(|_| job("app", "a", Class::Background)).collect::<Vec<_>>();
    assert!(matches!(pushes.accept(others(3)).await, Err(Refused::Full { waiting: 0, .. })));
    pushes.accept(others(2)).await.unwrap();
    assert!(matches!(pushes.accept(others(1)).await, Err(Refused::Full { waiting: 2, .. })));
    pushes.accept(vec![job("app", "b", Class::Call), job("app", "b", Class::Call)]).await.unwrap();
    assert!(matches!(pushes.accept(vec![job("app", "b", Class::Call)]).await, Err(Refused::Full { waiting: 4, .. })));
    let unknown = job("nobody", "a", Class::Call);
    assert!(matches!(pushes.accept(vec![unknown]).await, Err(Refused::UnknownApp { .. })));
    let mut late = job("app", "a", Class::Call);
    late.request.deadline = Some(options.clock.now() - Duration::from_secs(1));
    assert_eq!(pushes.accept(vec![late.clone()]).await, Err(Refused::TooLate(late.request.id)));
    let mut large = job("app", "a", Class::Call);
    large.request.payload = Payload::Stub(vec![b'x'; 200_000].into());
    assert!(matches!(pushes.accept(vec![large]).await, Err(Refused::TooLarge { .. })));
    assert_eq!(pushes.snapshot().waiting(), 4);
}

#[tokio::test]
async fn a_cancelled_push_is_dropped_while_it_waits_and_said_to_be_sent_when_it_may_have_been() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 1);
    stub.hold();
    let (pushes, _) = open(directory.path(), options(), senders([("app", &stub)]));
    let (first, second) = (job("app", "a", Class::Background), job("app", "b", Class::Background));
    stub.script("a", [Answer::unknown()]);
    pushes.accept(vec![first.clone()]).await.unwrap();
    stub.until(|counts| counts.begun == 1).await;
    pushes.accept(vec![second.clone()]).await.unwrap();
    assert_eq!(pushes.cancel(second.request.id).await, Cancelled::Dropped);
    assert_eq!(pushes.cancel(second.request.id).await, Cancelled::Finished(State::Dropped));
    assert_eq!(pushes.cancel(first.request.id).await, Cancelled::Sent);
    assert_eq!(pushes.cancel(PushId::new()).await, Cancelled::Unknown);
    // Neither comes to life again after a crash.
    drop(pushes);
    stub.release();
    let (pushes, recovered) = reopen(directory.path(), options(), senders([("app", &stub)])).await;
    assert_eq!(recovered.waiting, 0);
    pushes.close(Duration::from_secs(5)).await;
    assert_eq!(given(&stub), ["a"]);
}

#[tokio::test]
async fn a_newer_push_of_the_same_key_and_target_replaces_the_one_that_waits() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 1);
    stub.hold();
    let (pushes, _) = open(directory.path(), options(), senders([("app", &stub)]));
    pushes.accept(vec![job("app", "busy", Class::Background)]).await.unwrap();
    stub.until(|counts| counts.begun == 1).await;
    let jobs: Vec<_> = [("a", "k"), ("a", "other"), ("b", "k"), ("a", "k")]
        .map(|(token, key)| job("app", token, Class::Background).with_collapse(key))
        .into();
    for job in &jobs {
        pushes.accept(vec![job.clone()]).await.unwrap();
    }
    assert_eq!(pushes.state(jobs[0].request.id), Some(State::Dropped));
    let history = pushes.history(jobs[0].request.id).await.unwrap().unwrap();
    assert_eq!(history.moments.last().unwrap().reason, Some(Reason::known("replaced")));
    stub.release();
    eventually("the others are accepted", || pushes.snapshot().waiting() == 0).await;
    assert_eq!(given(&stub), ["busy", "a", "b", "a"]);
}

#[tokio::test]
async fn trial_20_a_token_that_is_gone_ends_all_that_waits_for_it_and_the_registry_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 1);
    let since = Timestamp::from_second(1_700_000_000).unwrap();
    stub.hold();
    stub.script("gone", [Answer::gone(Some(since))]);
    let registry = Arc::new(Registry::default());
    let (pushes, _) = Pushes::open(directory.path(), options(), senders([("app", &stub)]), registry.clone()).unwrap();
    let jobs: Vec<_> = ["gone", "gone", "well", "gone"].map(|token| job("app", token, Class::Background)).into();
    pushes.accept(jobs.clone()).await.unwrap();
    stub.release();
    eventually("nothing waits", || pushes.snapshot().waiting() == 0).await;
    let states: Vec<_> = jobs.iter().map(|job| pushes.state(job.request.id).unwrap()).collect();
    assert_eq!(states, [State::TokenGone, State::TokenGone, State::Accepted, State::TokenGone]);
    assert_eq!(given(&stub), ["gone", "well"]);
    let told = registry.told.lock();
    assert_eq!((told.len(), told[0].since, told[0].token.expose(), &told[0].device), (1, Some(since), "gone", &jobs[0].device));
}

#[tokio::test]
async fn trial_20_a_token_that_was_registered_later_is_not_gone_and_its_pushes_are_sent() {
    let directory = tempfile::tempdir().unwrap();
    let stub = Stub::new(Provider::Stub, 1);
    stub.script("back", [Answer::gone(Some(Timestamp::UNIX_EPOCH))]);
    let registry = Arc::new(Registry::default());
    *registry.later.lock() = true;
    let (pushes, _) = Pushes::open(directory.path(), options(), senders([("app", &stub)]), registry).unwrap();
    let jobs: Vec<_> = ["back", "back"].map(|token| job("app", token, Class::Call)).into();
    pushes.accept(jobs.clone()).await.unwrap();
    eventually("both are accepted", || pushes.snapshot().count("app", Class::Call, State::Accepted) == 2).await;
    assert_eq!(given(&stub).len(), 3);
}

#[tokio::test]
async fn the_directory_is_used_by_one_queue_at_a_time_and_a_later_version_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let (pushes, _) = open(directory.path(), options(), Senders::new());
    let second = Pushes::open(directory.path(), options(), Senders::new(), Arc::new(Registry::default()));
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    pushes.close(Duration::from_secs(5)).await;
    let file = directory.path().join("0000000001.log");
    let file = if file.exists() { file } else { directory.path().join("0000000001.kept") };
    let mut content = std::fs::read(&file).unwrap();
    content[8] = 200;
    std::fs::write(directory.path().join("0000000009.log"), content).unwrap();
    let later = Pushes::open(directory.path(), options(), Senders::new(), Arc::new(Registry::default()));
    assert!(matches!(later, Err(OpenError::Later { .. })), "{later:?}");
}
