//! Sends many pushes to a running push-sim and prints the rate and the processor time: `throughput READY.json PUSHES IN_FLIGHT [BODY]`.
//! READY.json is push-sim's ready file, whose directory has the key. Pin both to cores of their own to compare with other clients.
#![expect(clippy::print_stdout, reason = "it is its purpose")]

use std::{
    env, fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use push_apns::{Apns, Auth, ProviderTokens, Settings, SystemClock};
use push_core::{
    ApnsPayload, ApnsPushType, Class, Environment, Outcome, Payload, Priority, Provider, PushId, Request, Sender, Target, Token,
    connect::HostPort,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<(), Failure> {
    let mut arguments = env::args().skip(1);
    let ready = arguments.next().ok_or("which ready file?")?;
    let mut number = |otherwise: usize| arguments.next().map_or(Ok(otherwise), |text| text.parse());
    let (pushes, in_flight, body) = (number(20_000)?, number(100)?, number(200)?);
    let directory = Path::new(&ready).parent().ok_or("the ready file is in no directory")?.to_owned();
    let ready: serde_json::Value = serde_json::from_slice(&fs::read(&ready)?)?;
    let text = |pointer: &str| ready.pointer(pointer).and_then(|value| value.as_str()).ok_or(format!("no {pointer} in the ready file"));
    let (host, port) = text("/apns")?.rsplit_once(':').ok_or("no port")?;
    let (key_id, team_id) = (text("/key_id")?, text("/team_id")?);
    let key = fs::read(directory.join(format!("AuthKey_{key_id}.p8")))?;
    let tokens = ProviderTokens::new(&key, key_id, team_id, Arc::new(SystemClock))?;
    let mut settings = Settings::new(Environment::Production, "org.elph.phone", Auth::Token(tokens));
    settings.at = HostPort { host: host.to_owned(), port: port.parse()? };
    settings.ca_pem = Some(fs::read(directory.join("ca.pem"))?);
    let connect = settings.connector()?;
    let apns = Arc::new(Apns::new(settings, connect)?);
    let body = Bytes::from(format!(r#"{{"aps":{{"alert":"{}"}}}}"#, "x".repeat(body.saturating_sub(20))));
    let token = Token::parse(Provider::Apns, &"0123456789abcdef".repeat(4))?;
    let request = Request {
        id: PushId::new(),
        target: Target::Device(token),
        class: Class::Background,
        priority: Priority::High,
        deadline: None,
        store: false,
        collapse: None,
        payload: Payload::Apns(ApnsPayload { push_type: ApnsPushType::Alert, body }),
    };
    // The handshake is not what is measured.
    let first = apns.send(request.clone()).await;
    if !matches!(first, Outcome::Accepted { .. }) {
        return Err(format!("{first:?}").into());
    }
    let next = Arc::new(AtomicUsize::new(0));
    let (began, cpu) = (Instant::now(), processor_seconds()?);
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (apns, next, request) = (apns.clone(), next.clone(), request.clone());
            tokio::spawn(async move {
                let mut accepted = 0_usize;
                while next.fetch_add(1, Ordering::Relaxed) < pushes {
                    let outcome = apns.send(Request { id: PushId::new(), ..request.clone() }).await;
                    accepted += usize::from(matches!(outcome, Outcome::Accepted { .. }));
                }
                accepted
            })
        })
        .collect();
    let mut accepted = 0;
    for worker in workers {
        accepted += worker.await?;
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), processor_seconds()? - cpu);
    let thousands = pushes as f64 / 1000.0;
    println!("{accepted} of {pushes} accepted in {seconds:.2} s: {:.0}/s, {:.4} CPU-s per 1000", pushes as f64 / seconds, cpu / thousands);
    println!("{:?}", apns.statistics());
    apns.close().await;
    Ok(())
}

/// User and system time of this process (proc(5): fields 14 and 15, in ticks of 10 ms).
fn processor_seconds() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).ok_or("no processor time");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
