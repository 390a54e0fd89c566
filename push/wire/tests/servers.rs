//! Against servers that others wrote: the `h2` crate, and where they are installed node's and nghttp2's. Thousands of requests, more than
//! they take at once, over real sockets; every one must come back with what it carried.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails in a helper fails the test"
)]

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use push_wire::{
    Connection, Event, Limits, Refused, Request,
    hpack::{Field, Head},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};

const REQUESTS: usize = 3000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Statuses by request, and bodies and ids of answers.
type Answers = BTreeMap<usize, (u16, Vec<u8>, Option<String>)>;

fn body(number: usize) -> String {
    format!("{{\"number\":{number},\"text\":\"{}\"}}", "x".repeat(number % 700))
}

/// Sends all of them, as many at a time as the server takes.
async fn send_all(at: SocketAddr, path: &[u8]) -> Answers {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    let limits = Limits { wanted: &["apns-id"], body: 2048, ..Limits::default() };
    let mut connection = Connection::new(limits);
    let shared = |number: usize| {
        let fields = [
            (":method", "POST".to_owned()),
            (":scheme", "http".to_owned()),
            (":authority", at.to_string()),
            ("apns-topic", number.to_string()),
        ];
        Arc::new(Head::new(fields.into_iter().map(|(name, value)| Field::kept(name, value.into_bytes())).collect()))
    };
    // More of them than are kept compressed, and more than the table holds.
    let heads: Vec<_> = (0..90).map(shared).collect();
    let (mut answers, mut next, mut kept, mut input) = (Answers::new(), 0, Vec::new(), vec![0; 64 * 1024]);
    while answers.len() < REQUESTS {
        while next < REQUESTS {
            let id = format!("id-{next}");
            let own = [Field::once("apns-id", id.as_bytes()), Field::secret("apns-collapse-id", id.as_bytes())];
            let head = if next < REQUESTS / 2 { &heads[next % 3] } else { &heads[next % heads.len()] };
            let request = Request { path: &[path], head, own: &own, body: Bytes::from(body(next)) };
            match connection.request(&request, next) {
                Ok(_) => next += 1,
                Err(Refused::Full) => break,
                Err(refused) => panic!("{refused}"),
            }
        }
        let mut output = Vec::new();
        connection.swap_output(&mut output);
        let read = async {
            tcp.write_all(&output).await.unwrap();
            tcp.read(&mut input).await.unwrap()
        };
        let read = timeout(PATIENCE, read).await.expect("the server does not answer");
        assert_ne!(read, 0, "the server closed the connection after {} answers", answers.len());
        kept.extend_from_slice(&input[..read]);
        let used = connection.receive(&kept, |event| match event {
            Event::Answered(number, answer) => {
                let id = answer.fields.get("apns-id").map(|id| String::from_utf8(id.to_vec()).unwrap());
                answers.insert(number, (answer.status, answer.body, id));
            }
            Event::Failed(number, failure) => panic!("{number}: {failure:?}"),
            Event::Limit(_) | Event::Pong => {}
            Event::GoAway(code, text) => panic!("{code} {text}"),
        });
        kept.drain(..used.unwrap());
    }
    answers
}

/// Every answer is the request's own.
fn all_echoed(answers: &Answers) {
    for (number, (status, octets, id)) in answers {
        assert_eq!((*status, std::str::from_utf8(octets).unwrap()), (200, &*body(*number)));
        assert_eq!(id.as_deref(), Some(&*format!("id-{number}")));
    }
}

#[tokio::test]
async fn the_h2_crate_takes_every_request_and_its_answers_are_understood() {
    for (table, window, streams) in [(4096, 65_535, 50), (0, 100, 7), (100, 1 << 20, 1000)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut server = h2::server::Builder::new()
                .header_table_size(table)
                .initial_window_size(window)
                .max_concurrent_streams(streams)
                .handshake::<_, Bytes>(tcp)
                .await
                .unwrap();
            while let Some(Ok((request, mut respond))) = server.accept().await {
                tokio::spawn(async move {
                    let id = request.headers()["apns-id"].clone();
                    assert_eq!(request.headers()["apns-collapse-id"], id);
                    let mut stream = request.into_body();
                    let mut echoed = Vec::new();
                    while let Some(Ok(piece)) = stream.data().await {
                        stream.flow_control().release_capacity(piece.len()).unwrap();
                        echoed.extend_from_slice(&piece);
                    }
                    let head = http::Response::builder().header("apns-id", id).header("date", "now").body(()).unwrap();
                    respond.send_response(head, false).unwrap().send_data(echoed.into(), true).unwrap();
                });
            }
        });
        all_echoed(&send_all(at, b"/3/device/0a").await);
        serving.abort();
    }
}

const NODE: &str = r#"
const server = require('http2').createServer({ settings: { maxConcurrentStreams: 100, headerTableSize: 512, initialWindowSize: 300 } });
server.on('stream', (stream, headers) => {
  stream.respond({ ':status': 200, 'apns-id': headers['apns-id'] });
  stream.pipe(stream);
});
// The one that pip brings is started by another program: the end of its input ends it, too.
process.stdin.on('end', () => process.exit()).resume();
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"#;

/// The program's first line, if there is such a program.
async fn started(command: &mut Command) -> Option<(Child, String)> {
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).kill_on_drop(true).spawn().ok()?;
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take()?);
    timeout(PATIENCE, output.read_line(&mut line)).await.expect("it does not start").unwrap();
    Some((child, line))
}

#[tokio::test]
async fn node_takes_every_request_and_its_answers_are_understood() {
    // The system's, or the one that packaging/dev-setup has brought.
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/venv/bin/node");
    let node = if std::path::Path::new(own).exists() { own } else { "node" };
    let Some((mut child, line)) = started(Command::new(node).args(["-e", NODE])).await else {
        assert!(
            std::env::var_os("ELPH_TEST_TOOLS").is_none_or(|tools| tools != "required"),
            "node is not installed; run: packaging/dev-setup test"
        );
        println!("node is not installed");
        return;
    };
    let port: u16 = line.trim().parse().expect("node says its port");
    all_echoed(&send_all(([127, 0, 0, 1], port).into(), b"/3/device/0a").await);
    child.kill().await.unwrap();
}

#[tokio::test]
async fn nghttpd_takes_every_request_and_its_answers_are_understood() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let echo = ["--no-tls", "--echo-upload", "--address=127.0.0.1", "--max-concurrent-streams=64", "--header-table-size=256"];
    let started = Command::new("nghttpd").args(echo).arg(at.port().to_string()).stdin(Stdio::null()).kill_on_drop(true).spawn();
    let Ok(child) = started else {
        assert!(
            std::env::var_os("ELPH_TEST_TOOLS").is_none_or(|tools| tools != "required"),
            "nghttpd is not installed; run: packaging/dev-setup test"
        );
        println!("nghttpd is not installed");
        return;
    };
    let up = async {
        while TcpStream::connect(at).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, up).await.expect("nghttpd does not start");
    for (number, (status, octets, _)) in &send_all(at, b"/echo").await {
        assert_eq!((*status, std::str::from_utf8(octets).unwrap()), (200, &*body(*number)));
    }
    drop(child);
}
