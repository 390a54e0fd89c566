//! A real OpenLDAP server for one test, with a certificate of its own authority and some people in it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{required, say};

/// Debian's program.
const PROGRAM: &str = "/usr/sbin/slapd";
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Times that other ports are tried.
const TIMES: usize = 3;
/// Who may change everything, and the password.
const ROOT: (&str, &str) = ("cn=admin,dc=example,dc=org", "root's password");

/// What Active Directory has and OpenLDAP has not.
const SCHEMA: &str = "\
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.1 NAME 'account2' SUP top AUXILIARY MAY userAccountControl )
";

/// Everybody's password is `<uid>'s password`. `anna` (1001) is a moderator, `boris` (1002) is disabled, `vera` has no number, there are two
/// `twin`s, `owner` and `thief` have the same number, `nobody` has no password.
const PEOPLE: &str = "\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: cn=reader,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: reader's password

dn: uid=anna,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: anna
cn: Anna Petrova
sn: Petrova
mail: anna@example.org
telephoneNumber: 1001
userPassword: anna's password

dn: uid=boris,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: account2
uid: boris
cn: Boris
sn: B
telephoneNumber: 1002
userAccountControl: 514
userPassword: boris's password

dn: uid=vera,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: vera
cn: Vera
sn: V
userPassword: vera's password

dn: uid=twin,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin
cn: Twin
sn: T
telephoneNumber: 1003
userPassword: twin's password

dn: cn=twin,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin
cn: twin
sn: T
telephoneNumber: 1004
userPassword: twin's password

dn: uid=owner,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: owner
cn: Owner
sn: O
telephoneNumber: 1005
userPassword: owner's password

dn: uid=thief,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: thief
cn: Thief
sn: T
telephoneNumber: 1005
userPassword: thief's password

dn: uid=nobody,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: nobody
cn: Nobody
sn: N
telephoneNumber: 1006

dn: cn=Moderators,dc=example,dc=org
objectClass: groupOfNames
cn: Moderators
member: uid=anna,ou=people,dc=example,dc=org

dn: cn=others,dc=example,dc=org
objectClass: groupOfNames
cn: others
member: uid=vera,ou=people,dc=example,dc=org
";

/// An OpenLDAP server.
pub struct TestDirectory {
    directory: TempDir,
    plain: u16,
    tls: u16,
    server: Option<Child>,
}

impl TestDirectory {
    /// What everything stands below.
    pub const BASE: &str = "dc=example,dc=org";
    /// Who may search.
    pub const READER: &str = "cn=reader,dc=example,dc=org";
    /// The group of moderators.
    pub const MODERATORS: &str = "cn=moderators,dc=example,dc=org";

    /// Starts one. None: slapd is not installed and `ELPH_TEST_TOOLS` is not `required`.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        if !Path::new(PROGRAM).exists() {
            if required() {
                bail!("slapd is not installed; run: packaging/dev-setup test");
            }
            say("skipped with LDAP: slapd is not installed");
            return Ok(None);
        }
        let mut last = None;
        for _ in 0..TIMES {
            let mut directory = Self::prepared()?;
            match directory.resume().await {
                Ok(()) => {
                    // Through the running server, so that it writes down who is a member of what.
                    directory.change("ldapadd", PEOPLE).await?;
                    return Ok(Some(directory));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("it was not tried")?)
    }

    fn prepared() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let place = directory.path();
        authority(place)?;
        std::fs::create_dir(place.join("data"))?;
        std::fs::write(place.join("own.schema"), SCHEMA)?;
        std::fs::write(place.join("reader"), "reader's password\n")?;
        let (at, base, reader, (root, password)) = (place.display(), Self::BASE, Self::READER, ROOT);
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\ninclude /etc/ldap/schema/inetorgperson.schema\n\
             include {at}/own.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\nmoduleload memberof\npidfile {at}/pid\n\
             TLSCACertificateFile {at}/ca.pem\nTLSCertificateFile {at}/cert.pem\nTLSCertificateKeyFile {at}/key.pem\n\
             database mdb\nsuffix \"{base}\"\nrootdn \"{root}\"\nrootpw \"{password}\"\ndirectory {at}/data\noverlay memberof\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"{reader}\" read by anonymous auth by * none\n"
        );
        std::fs::write(place.join("slapd.conf"), config)?;
        let sockets = [std::net::TcpListener::bind("127.0.0.1:0")?, std::net::TcpListener::bind("127.0.0.1:0")?];
        let [plain, tls] = sockets.each_ref().map(|socket| socket.local_addr().map(|address| address.port()));
        Ok(Self { plain: plain?, tls: tls?, directory, server: None })
    }

    /// Starts it, with what was in it.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let place = self.directory.path();
        let server = Command::new(PROGRAM)
            .arg("-f")
            .arg(place.join("slapd.conf"))
            .args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", self.plain, self.tls)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let server = self.server.insert(server);
        let began = Instant::now();
        for port in [self.plain, self.tls] {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                let ended = server.try_wait()?;
                ensure!(ended.is_none() && began.elapsed() < PATIENCE, "slapd did not start: {ended:?}");
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Ends it, as a failure would; `resume` brings it back.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill().await?;
        }
        Ok(())
    }

    /// Changes what is in it, by LDIF.
    pub async fn modify(&self, ldif: &str) -> anyhow::Result<()> {
        self.change("ldapmodify", ldif).await
    }

    async fn change(&self, program: &str, ldif: &str) -> anyhow::Result<()> {
        let path = self.directory.path().join("change.ldif");
        std::fs::write(&path, ldif)?;
        let (root, password) = ROOT;
        let mut command = Command::new(program);
        command.args(["-x", "-D", root, "-w", password, "-H", &format!("ldap://127.0.0.1:{}", self.plain), "-f"]).arg(path);
        let done = command.output().await.with_context(|| format!("{program} is not installed"))?;
        ensure!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// Where it answers with TLS.
    pub fn encrypted(&self) -> String {
        format!("ldaps://localhost:{}", self.tls)
    }

    /// Where it answers with or without StartTLS.
    pub fn plain(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.plain)
    }

    /// Who signed its certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The reader's password.
    pub fn password(&self) -> PathBuf {
        self.directory.path().join("reader")
    }
}

/// Writes an authority, and a certificate of `localhost` that it signed.
fn authority(directory: &Path) -> anyhow::Result<()> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let key = KeyPair::generate()?;
    std::fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate()?;
    std::fs::write(directory.join("cert.pem"), server.signed_by(&key, &issuer)?.pem())?;
    Ok(std::fs::write(directory.join("key.pem"), key.serialize_pem())?)
}
