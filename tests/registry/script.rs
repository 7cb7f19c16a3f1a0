//! A server that answers as a test says, also in ways that no registry should.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    pub path: String,
    /// Header lines without the first.
    pub headers: Vec<String>,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What is answered.
pub enum Reply {
    /// A status, header lines and a body.
    Whole(u16, Vec<String>, Vec<u8>),
    /// A status, header lines and a body that does not end.
    Endless(u16),
    /// A body that comes byte by byte, with a pause between them.
    Drip(Vec<u8>, Duration),
}

pub fn reply(status: u16, headers: &[&str], body: impl Into<Vec<u8>>) -> Reply {
    Reply::Whole(status, headers.iter().map(|line| (*line).to_owned()).collect(), body.into())
}

/// Says what is answered.
pub type Decide = Box<dyn Fn(&Got, &str) -> Reply + Send + Sync>;

pub struct Script {
    pub address: String,
    got: Arc<Mutex<Vec<Got>>>,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Script {
    /// `decide` gets the request and the server's own address.
    pub fn start(decide: impl Fn(&Got, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (got, sent) = (Arc::<Mutex<Vec<Got>>>::default(), Arc::<AtomicU64>::default());
        let stop = Arc::<AtomicBool>::default();
        let decide: Arc<Decide> = Arc::new(Box::new(decide));
        let (log, count, stopped, own) =
            (Arc::clone(&got), Arc::clone(&sent), Arc::clone(&stop), address.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (log, count, own) = (Arc::clone(&log), Arc::clone(&count), own.clone());
                let decide = Arc::clone(&decide);
                // A client that goes away in the middle is what is tested.
                std::thread::spawn(move || serve(stream.unwrap(), &log, &count, &decide, &own).ok());
            }
        });
        Self { address, got, sent, stop, thread: Some(thread) }
    }

    /// Every request until now.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// How many bytes of endless bodies the clients took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(&self.address).ok();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One request; the connection ends with the answer.
fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Got>>,
    sent: &AtomicU64,
    decide: &Decide,
    own: &str,
) -> io::Result<()> {
    let mut client = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        client.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let first = lines.remove(0);
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut got = Got { method, path, headers: lines, body: String::new() };
    let length = got.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = Vec::new();
    client.take(length).read_to_end(&mut body)?;
    got.body = String::from_utf8_lossy(&body).into_owned();
    log.lock().unwrap().push(got.clone());
    let head = |status: u16, headers: &[String]| {
        format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\n{}\r\n",
            headers.iter().map(|line| format!("{line}\r\n")).collect::<String>()
        )
    };
    match decide(&got, own) {
        Reply::Whole(status, mut headers, body) => {
            headers.push(format!("Content-Length: {}", body.len()));
            stream.write_all(head(status, &headers).as_bytes())?;
            if got.method != "HEAD" {
                stream.write_all(&body)?;
            }
        }
        Reply::Endless(status) => {
            stream.write_all(head(status, &[]).as_bytes())?;
            loop {
                stream.write_all(&[b' '; 1 << 16])?;
                sent.fetch_add(1 << 16, Ordering::SeqCst);
            }
        }
        Reply::Drip(body, pause) => {
            stream.write_all(head(200, &[format!("Content-Length: {}", body.len())]).as_bytes())?;
            for byte in body {
                stream.write_all(&[byte])?;
                std::thread::sleep(pause);
            }
        }
    }
    stream.shutdown(Shutdown::Both)
}
