//! A registry of the test's own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plywood::registry::{Client, ClientOptions};

use crate::common::{have, run_command, scratch};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// `docker-registry` on loopback, as long as the value lives.
pub struct Server {
    child: Child,
    /// Host and port.
    pub address: String,
    pub dir: tempfile::TempDir,
}

/// User and password of a registry that wants them: bcrypt, with the least work.
const HTPASSWD: &str = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

impl Server {
    /// One that is open to everybody; `None`, after saying so, where it is not installed.
    pub fn start() -> Option<Self> {
        Self::with("", "")
    }

    /// One that speaks TLS, and the certificate of who vouches for it.
    pub fn with_tls() -> Option<(Self, Vec<u8>)> {
        if !have(&["openssl"]) {
            return None;
        }
        let dir = scratch();
        let make = |words: &str| {
            let mut command = Command::new("openssl");
            run_command(command.args(words.split(' ')).current_dir(dir.path()));
        };
        let names = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        std::fs::write(dir.path().join("names"), names).unwrap();
        make("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test");
        make("req -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=registry");
        make(
            "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -out pem -days 2 -extfile names",
        );
        let path = |name: &str| dir.path().join(name).display().to_string();
        let server =
            Self::with("", &format!(", tls: {{certificate: {}, key: {}}}", path("pem"), path("key")))?;
        Some((server, std::fs::read(dir.path().join("ca.pem")).unwrap()))
    }

    /// One that speaks TLS with a certificate that signed itself and may sign others, and that certificate.
    pub fn self_signed() -> Option<(Self, Vec<u8>)> {
        Self::self_signed_with("")
    }

    /// The same, with more lines of configuration, in which `PEM` is the file of the certificate.
    pub fn self_signed_with(more: &str) -> Option<(Self, Vec<u8>)> {
        if !have(&["openssl"]) {
            return None;
        }
        let dir = scratch();
        let words = "req -x509 -newkey rsa:2048 -nodes -keyout key -out pem -days 2 -subj /CN=registry -addext subjectAltName=IP:127.0.0.1";
        let mut command = Command::new("openssl");
        run_command(command.args(words.split(' ')).current_dir(dir.path()));
        let path = |name: &str| dir.path().join(name).display().to_string();
        let http = format!(", tls: {{certificate: {}, key: {}}}", path("pem"), path("key"));
        let server = Self::with(&more.replace("PEM", &path("pem")), &http)?;
        Some((server, std::fs::read(dir.path().join("pem")).unwrap()))
    }

    /// One that speaks TLS with a certificate that expired long ago and signed itself, and that certificate.
    pub fn expired() -> Option<(Self, Vec<u8>)> {
        if !have(&["openssl"]) {
            return None;
        }
        let dir = scratch();
        let make = |words: &str| {
            let mut command = Command::new("openssl");
            run_command(command.args(words.split(' ')).current_dir(dir.path()));
        };
        let config = "[ca]\ndefault_ca=own\n[own]\ndatabase=issued\nnew_certs_dir=.\nrand_serial=yes\n\
            default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n";
        for (file, content) in
            [("config", config), ("issued", ""), ("names", "subjectAltName=IP:127.0.0.1\n")]
        {
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        make("req -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=registry");
        make(
            "ca -batch -config config -selfsign -keyfile key -in request -out pem -notext -extfile names \
             -startdate 20200101000000Z -enddate 20210101000000Z",
        );
        let path = |name: &str| dir.path().join(name).display().to_string();
        let server =
            Self::with("", &format!(", tls: {{certificate: {}, key: {}}}", path("pem"), path("key")))?;
        Some((server, std::fs::read(dir.path().join("pem")).unwrap()))
    }

    /// One that wants to know who it is: `me`, whose password is `secret`.
    pub fn with_password() -> Option<Self> {
        Self::with("auth:\n  htpasswd:\n    realm: here\n    path: PASSWORDS\n", "")
    }

    fn with(more: &str, http: &str) -> Option<Self> {
        if !have(&["docker-registry", "setpriv"]) {
            return None;
        }
        let dir = scratch();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("passwords"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: '127.0.0.1:0'{http}}}\n{}",
            path("data"),
            more.replace("PASSWORDS", &path("passwords"))
        );
        std::fs::write(path("config.yml"), config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new("setpriv")
            // Should the test die, so does the registry.
            .args(["--pdeathsig", "TERM", "docker-registry", "serve", &path("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let log = path("log");
        let mut server = Self { child, address: String::new(), dir };
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some((_, rest)) = text.split_once("listening on 127.0.0.1:") {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                server.address = format!("127.0.0.1:{port}");
                return Some(server);
            }
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < PATIENCE, "docker-registry: {ended:?}\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Options that do not keep a test waiting.
pub fn options() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.back_off = Duration::from_millis(1);
    options
}

pub fn client() -> Client {
    Client::new(options()).unwrap()
}
