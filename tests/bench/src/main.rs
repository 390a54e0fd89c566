//! Measures the agent against the figures that are promised and against others doing the same job, all in one run on one machine.
//! Each bench prints a table and writes `target/bench/<bench>.json`. `bench events codecs` runs those two; without names all are run.

mod bare;
mod bus;
mod busy;
mod codecs;
mod edge;
mod events;
mod fanout;
mod feed;
mod memory;
mod nats;
mod push_apns;
mod push_fcm;
mod push_latency;
mod push_memory;
mod push_rivals;
mod push_sender;
mod report;
mod runs;
mod sign_in;
mod start;
mod status;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::report::Table;

/// The benches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// From the switch's event to the gRPC subscriber, at a fixed rate.
    Events,
    /// Deliveries per second at saturation.
    Fanout,
    /// Resident memory, and whether it grows under load.
    Memory,
    /// From the start to ready, and from a switch restart to the same state.
    Start,
    /// Messages per second and allocations per message of the three protocols.
    Codecs,
    /// Pushes to APNs per second, and their CPU.
    #[value(name = "push_apns")]
    PushApns,
    /// Messages to FCM per second, and their CPU.
    #[value(name = "push_fcm")]
    PushFcm,
    /// From the ringing in the switch to the provider's request.
    #[value(name = "push_latency")]
    PushLatency,
    /// Resident memory with many devices and waiting pushes, and the start after a crash.
    #[value(name = "push_memory")]
    PushMemory,
    /// Requests at the token endpoint, and verified tokens.
    #[value(name = "sign_in")]
    SignIn,
    /// One change of status to 10,000 watchers.
    Status,
    /// Events per second through the outbox and RabbitMQ.
    Bus,
    /// The door: nginx as elph-proxy renders it beside a bare one and haproxy.
    Edge,
}

/// Measures the agent beside others.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Which; none: all.
    benches: Vec<Bench>,
    /// Load for ten minutes instead of one when memory is watched.
    #[arg(long)]
    soak: bool,
    /// Serve as the bare tonic stream, with both sockets in this directory.
    #[arg(long, hide = true)]
    bare_tonic: Option<PathBuf>,
    /// Send pushes, as this JSON says, and print what it came to.
    #[arg(long, hide = true)]
    push_sender: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One TLS provider for everything in the process. An error means that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    if let Some(directory) = arguments.bare_tonic {
        return bare::serve(&directory).await;
    }
    if let Some(task) = arguments.push_sender {
        return push_sender::serve(&task).await;
    }
    let asked = if arguments.benches.is_empty() { Bench::value_variants().to_vec() } else { arguments.benches };
    for bench in asked {
        let table: Table = match bench {
            Bench::Events => Box::pin(events::run()).await?,
            Bench::Fanout => Box::pin(fanout::run()).await?,
            Bench::Memory => Box::pin(memory::run(arguments.soak)).await?,
            Bench::Start => Box::pin(start::run()).await?,
            Bench::Codecs => Box::pin(codecs::run()).await?,
            Bench::PushApns => Box::pin(push_apns::run()).await?,
            Bench::PushFcm => Box::pin(push_fcm::run()).await?,
            Bench::PushLatency => Box::pin(push_latency::run()).await?,
            Bench::PushMemory => Box::pin(push_memory::run()).await?,
            Bench::SignIn => Box::pin(sign_in::run()).await?,
            Bench::Status => Box::pin(status::run()).await?,
            Bench::Bus => Box::pin(bus::run()).await?,
            Bench::Edge => Box::pin(edge::run()).await?,
        };
        table.publish()?;
    }
    Ok(())
}
