//! Certificates by themselves, from pebble: an ACME server that others wrote and that is stricter than most.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use crate::harness::{Copy, Door, Tls, copy, eventually, free, nginx, status, there};

const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

struct Pebble {
    server: Child,
    dns: Child,
    directory: tempfile::TempDir,
    listen: SocketAddr,
    /// Of the fake DNS: records are set here.
    records: SocketAddr,
}

fn tools() -> bool {
    nginx() && there("/usr/bin/pebble") && there("/usr/bin/pebble-challtestsrv") && there(STREAM)
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Pebble {
    /// Comes to this door for TLS-ALPN-01; its certificates are valid that many seconds.
    async fn start(door: SocketAddr, valid: u64, external: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        crate::harness::certificate(directory.path());
        let (listen, management, dns_at, records) = (free(), free(), free(), free());
        let keys = serde_json::json!({ "kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W" });
        let config = serde_json::json!({
            "listenAddress": listen, "managementListenAddress": management,
            "certificate": directory.path().join("cert.pem"), "privateKey": directory.path().join("key.pem"),
            "httpPort": 1, "tlsPort": door.port(), "ocspResponderURL": "", "certificateValidityPeriod": valid,
            "externalAccountBindingRequired": external, "externalAccountMACKeys": if external { keys } else { serde_json::json!({}) },
        });
        std::fs::write(directory.path().join("pebble.json"), serde_json::json!({ "pebble": config }).to_string()).unwrap();
        let dns = quiet("/usr/bin/pebble-challtestsrv")
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &dns_at.to_string(), "-management", &records.to_string()])
            .spawn()
            .unwrap();
        let server = quiet("/usr/bin/pebble")
            .args(["-strict", "-dnsserver", &dns_at.to_string(), "-config"])
            .arg(directory.path().join("pebble.json"))
            .envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0")])
            .spawn()
            .unwrap();
        for address in [listen, dns_at, records] {
            eventually("pebble listens", async || TcpStream::connect(address).await.is_ok()).await;
        }
        Self { server, dns, directory, listen, records }
    }

    /// `[acme]` for it.
    fn section(&self, state: &std::path::Path, more: &str) -> String {
        format!(
            "[acme]\ndirectory = \"https://localhost:{}/dir\"\naccept_terms = true\ncontact = [\"mailto:a@example.org\"]\n\
             retry = \"1s\"\nca_file = \"{}\"\nstate = \"{}\"\n{more}\n\
             [limits]\nexempt = [\"127.0.0.0/8\"]\n",
            self.listen.port(),
            self.directory.path().join("cert.pem").display(),
            state.display()
        )
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.dns] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn anyone(name: &'static str) -> Tls {
    Tls { name, trusting: true, ..Tls::default() }
}

/// Who has issued the door's certificate, its serial number, and the names in it.
async fn shown(door: &Door, name: &'static str) -> Option<(String, String, Vec<String>)> {
    let stream = door.connect_as(&anyone(name)).await.ok()?;
    let chain = stream.get_ref().1.peer_certificates()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let names = parsed.subject_alternative_name().ok()??.value.general_names.iter().map(ToString::to_string).collect();
    Some((parsed.issuer().to_string(), parsed.raw_serial_as_string(), names))
}

async fn get(door: &Door, name: &'static str) -> String {
    let request = format!("GET /elph_chat/x HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    door.raw_as(&anyone(name), &request).await.unwrap_or_else(|error| error.to_string())
}

fn state() -> (Arc<tempfile::TempDir>, PathBuf) {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    (directory, state)
}

const HOSTS: &str = "hosts = [\"elph.test\", \"chat.elph.test\"]";

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_let_in_at_the_one_port_while_everybody_else_is_served_as_before() {
    if !tools() {
        return;
    }
    let (copy, address, (directory, state)) = (copy().await, free(), state());
    let pebble = Pebble::start(address, 86_400, false).await;
    let section = pebble.section(&state, "");
    let door = Arc::new(Door::open_at(directory, address, &[&copy], HOSTS, &section).await);
    let done = Arc::new(AtomicBool::new(false));
    let (loaded, ended) = (door.clone(), done.clone());
    let load = tokio::spawn(async move {
        let mut served = 0;
        while !ended.load(Ordering::Relaxed) {
            let answer = get(&loaded, "elph.test").await;
            assert_eq!(status(&answer), 200, "{answer}\n{}", loaded.log());
            assert!(answer.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}");
            assert!(answer.contains(&format!("host: elph.test:{}\n", loaded.address.port())), "{answer}");
            served += 1;
        }
        served
    });
    eventually("issued", async || shown(&door, "elph.test").await.is_some_and(|(issuer, ..)| issuer.contains("Pebble"))).await;
    door.measures("elph_proxy_acme_orders_total{outcome=\"issued\"} 1").await;
    done.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);
    // Workers of before may take a last connection with what they have.
    let both =
        async |door: &Door| shown(door, "elph.test").await.filter(|(issuer, _, names)| issuer.contains("Pebble") && names.len() == 2);
    eventually("for both names", async || both(&door).await.is_some()).await;
    let certificate = std::fs::read(state.join("certificate.pem")).unwrap();
    // Nothing of the challenge is left.
    let written = std::fs::read_to_string(door.directory.path().join("run/nginx.conf")).unwrap();
    assert!(!written.contains("acme-tls") && written.contains("load_module"), "{written}");
    assert!(!door.directory.path().join("run/acme.sock").exists());
    for file in ["account.json", "certificate.pem"] {
        assert_eq!(std::fs::metadata(state.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    // The next start neither orders nor asks for another account.
    let account = std::fs::read(state.join("account.json")).unwrap();
    let Ok(door) = Arc::try_unwrap(door) else { panic!("the load still has the door") };
    let door = Door::open_at(door.close(), address, &[&copy], HOSTS, &section).await;
    assert!(both(&door).await.is_some());
    assert_eq!(std::fs::read(state.join("certificate.pem")).unwrap(), certificate);
    assert_eq!(std::fs::read(state.join("account.json")).unwrap(), account);
    assert!(!door.own("/metrics").await.contains("elph_proxy_acme_orders_total{"));
    // Another name: another certificate, from the same account.
    let more = "hosts = [\"elph.test\", \"files.elph.test\"]";
    std::fs::write(
        door.directory.path().join("proxy.toml"),
        Door::toml(door.directory.path(), door.address, door.metrics, &[&copy], more, &section),
    )
    .unwrap();
    door.signal(Signal::SIGHUP);
    let renamed =
        async || shown(&door, "files.elph.test").await.is_some_and(|(.., names)| names.iter().any(|name| name.contains("files.")));
    eventually("for the new name", renamed).await;
    assert_eq!(std::fs::read(state.join("account.json")).unwrap(), account);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_ends_and_an_authority_that_is_gone_takes_nothing_away() {
    if !tools() {
        return;
    }
    let (copy, address, (directory, state)) = (copy().await, free(), state());
    // Renewed when a third of it is left: after 6 s.
    let pebble = Pebble::start(address, 9, false).await;
    let door = Door::open_at(directory, address, &[&copy], HOSTS, &pebble.section(&state, "")).await;
    let issued = async || shown(&door, "elph.test").await.filter(|(issuer, ..)| issuer.contains("Pebble"));
    eventually("issued", async || issued().await.is_some()).await;
    let (_, first, _) = issued().await.unwrap();
    eventually("renewed", async || issued().await.is_some_and(|(_, serial, _)| serial != first)).await;
    drop(pebble);
    door.measures("elph_proxy_acme_orders_total{outcome=\"failed\"} 1").await;
    assert!(issued().await.is_some(), "the last one is still shown");
    assert_eq!(status(&get(&door, "elph.test").await), 200);
    assert!(door.log().contains("no new certificate, the present one stays"), "{}", door.log());
}

fn hook(directory: &std::path::Path, pebble: &Pebble) -> PathBuf {
    let path = directory.join("hook");
    let script = format!(
        "#!/bin/bash\ncase $1 in\npresent) to=/set-txt body=\"{{\\\"host\\\":\\\"$2\\\",\\\"value\\\":\\\"$3\\\"}}\" ;;\n\
         *) to=/clear-txt body=\"{{\\\"host\\\":\\\"$2\\\"}}\" ;;\nesac\n\
         exec 3<>/dev/tcp/127.0.0.1/{}\n\
         printf 'POST %s HTTP/1.0\\r\\nContent-Length: %s\\r\\n\\r\\n%s' \"$to\" \"${{#body}}\" \"$body\" >&3\n\
         read -r _ status _ <&3\necho \"$1 $2\" >>'{}'\n[ \"$status\" = 200 ]\n",
        pebble.records.port(),
        directory.join("hook.log").display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn opened_by_dns(pebble: &Pebble, copy: &Copy, directory: Arc<tempfile::TempDir>, state: &std::path::Path, more: &str) -> Door {
    let hook = hook(directory.path(), pebble);
    let more = format!("challenge = \"dns\"\nhook = \"{}\"\nnames = [\"elph.test\", \"*.elph.test\"]\n{more}", hook.display());
    Door::open_in(directory, &[copy], "", &pebble.section(state, &more)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_publishes_the_records_for_a_name_with_a_star_and_removes_them_and_an_external_account_is_bound() {
    if !tools() {
        return;
    }
    let (copy, (directory, state)) = (copy().await, state());
    let pebble = Pebble::start(free(), 86_400, true).await;
    let (right, wrong) = (directory.path().join("right"), directory.path().join("wrong"));
    std::fs::write(&right, "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n").unwrap();
    std::fs::write(&wrong, "b10lLJs8l1GPIzsLP0s6pMt8O0XVGnfTaCeROxQM0BIt2XrJMDHJZBM5NuQmQJQH\n").unwrap();
    let external = |file: &std::path::Path| format!("external_account_id = \"kid-1\"\nexternal_account_key_file = \"{}\"", file.display());
    let door = opened_by_dns(&pebble, &copy, directory, &state, &external(&wrong)).await;
    door.measures("elph_proxy_acme_orders_total{outcome=\"failed\"} 1").await;
    assert!(door.log().contains("the authority gives no account") && !door.log().contains("b10lLJs8"), "{}", door.log());
    assert_eq!(status(&get(&door, "x.elph.test").await), 200, "served with a certificate of its own meanwhile");
    let door = opened_by_dns(&pebble, &copy, door.close(), &state, &external(&right)).await;
    let issued = async || shown(&door, "x.elph.test").await.filter(|(issuer, ..)| issuer.contains("Pebble"));
    eventually("issued", async || issued().await.is_some()).await;
    let (.., mut names) = issued().await.unwrap();
    names.sort();
    assert!(names.len() == 2 && names.iter().any(|name| name.contains("*.elph.test")), "{names:?}");
    let calls = std::fs::read_to_string(door.directory.path().join("hook.log")).unwrap();
    assert_eq!(calls.matches("present _acme-challenge.elph.test.\n").count(), 2, "one for each name\n{calls}");
    assert_eq!(calls.matches("cleanup _acme-challenge.elph.test.\n").count(), 2, "{calls}");
}
