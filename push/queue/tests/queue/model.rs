//! Against a model: whatever is accepted, cancelled, answered and restarted, each push ends once and as it must.

use std::collections::{HashMap, HashSet};

use push_queue::{Cancelled, State};
use push_stub::Answer;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

#[tokio::test]
async fn whatever_happens_every_accepted_push_is_sent_or_ends_as_it_was_told() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let quick = push_queue::Waits { first: Duration::from_millis(1), most: Duration::from_millis(5) };
    // Files so small, and so little memory, that pushes are moved and read back all the time.
    let options = Options {
        segment_bytes: 4096,
        memory_bytes: 2000,
        kept_bytes: 4 << 20,
        attempts: 200,
        retry: quick,
        call_retry: quick,
        pause: quick,
        clock: Clock::system(),
        ..Options::default()
    };
    let stub = Stub::new(Provider::Stub, 8);
    let (mut pushes, _) = open(directory.path(), options.clone(), senders([("app", &stub)]));
    let mut accepted: Vec<(PushId, String)> = Vec::new();
    let mut dropped = HashSet::new();
    let (mut gone, mut refusing) = (HashSet::new(), HashSet::new());
    let mut given_at_crash = HashSet::new();
    let mut restarts = 0;
    for step in 0..600 {
        match rng.random_range(0..100) {
            0..60 => {
                let jobs: Vec<_> = (0..rng.random_range(1..6))
                    .map(|number| {
                        let class = [Class::Background, Class::Interactive, Class::Call][rng.random_range(0..3)];
                        let token = format!("t{step}-{number}");
                        match rng.random_range(0..10) {
                            0 => stub.script(&token, [Answer::unknown()]),
                            1 => {
                                refusing.insert(token.clone());
                                stub.script(&token, [Answer::not_sent(), Answer::retry_after(None)]);
                            }
                            2 => {
                                gone.insert(token.clone());
                                stub.script(&token, std::iter::repeat_n(Answer::gone(None), 5));
                            }
                            _ => {}
                        }
                        job("app", &token, class)
                    })
                    .collect();
                pushes.accept(jobs.clone()).await.unwrap();
                accepted.extend(jobs.iter().map(|job| (job.request.id, token_of(&job.request))));
            }
            60..80 if !accepted.is_empty() => {
                let (id, _) = accepted[rng.random_range(0..accepted.len())].clone();
                if pushes.cancel(id).await == Cancelled::Dropped {
                    dropped.insert(id);
                }
            }
            80..88 => stub.hold(),
            88..97 => stub.release(),
            97..100 => {
                if rng.random_bool(0.5) {
                    pushes.close(Duration::from_millis(20)).await;
                }
                // That an attempt began is written soon after, not before: a crash in between makes the queue forget it.
                given_at_crash.extend(stub.given().iter().map(|given| given.request.id));
                drop(pushes);
                pushes = reopen(directory.path(), options.clone(), senders([("app", &stub)])).await.0;
                restarts += 1;
            }
            _ => {}
        }
    }
    stub.release();
    eventually("nothing waits", || pushes.snapshot().waiting() == 0).await;
    let mut sent: HashMap<PushId, usize> = HashMap::new();
    for given in stub.given() {
        *sent.entry(given.request.id).or_default() += 1;
    }
    for (id, token) in &accepted {
        let state = pushes.history(*id).await.unwrap().map(|history| history.state());
        let times = sent.get(id).copied().unwrap_or(0);
        if dropped.contains(id) {
            // An attempt that the provider refused has not reached it.
            let unsent = times == 0 || refusing.contains(token) || given_at_crash.contains(id);
            assert_eq!((state, unsent), (Some(State::Dropped), true), "seed {seed}: {token} was cancelled before it was sent");
        } else if times == 0 {
            panic!("seed {seed}: {token} was never sent, {:?}", pushes.history(*id).await);
        } else if gone.contains(token) {
            assert!(matches!(state, Some(State::TokenGone | State::Dropped)), "seed {seed}: {token} {state:?}");
        } else {
            assert!(matches!(state, Some(State::Accepted | State::Dropped)), "seed {seed}: {token} {state:?}");
        }
    }
    println!("{} accepted, {} sends, {restarts} restarts", accepted.len(), sent.values().sum::<usize>());
    pushes.close(Duration::from_secs(5)).await;
}
