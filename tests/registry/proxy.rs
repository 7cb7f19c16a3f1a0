//! A proxy in front of a registry that misbehaves as the test says, and remembers what passed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Header lines without the first.
    pub headers: Vec<String>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Whether it asks for the bytes of a blob.
    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/sha256:")
    }
}

/// What becomes of a request.
pub enum Act {
    Pass,
    /// The connection ends after so many bytes of the answer's body.
    Cut(usize),
    /// After so many bytes of the answer's body nothing comes any more, until the client goes away.
    Stall(usize),
    /// The registry never sees it.
    Answer(&'static str),
    /// The registry does not see what range is wanted.
    NoRange,
    /// One byte of the answer's body is another.
    Wrong(usize),
}

type Decide = Box<dyn Fn(&Asked, usize) -> Act + Send + Sync>;

pub struct Proxy {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of the registry at `upstream`. `decide` gets the request, and how many came before it that were the
    /// same.
    pub fn start(upstream: &str, decide: impl Fn(&Asked, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stopped, upstream) = (Arc::clone(&asked), Arc::clone(&stop), upstream.to_owned());
        let decide: Arc<Decide> = Arc::new(Box::new(decide));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (log, upstream, decide) = (Arc::clone(&log), upstream.clone(), Arc::clone(&decide));
                // A client that goes away in the middle is what is tested.
                std::thread::spawn(move || serve(stream.unwrap(), &upstream, &log, &decide).ok());
            }
        });
        Self { address, asked, stop, thread: Some(thread) }
    }

    /// Everything that was asked until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests for bytes of blobs there were.
    pub fn blobs(&self) -> usize {
        self.asked().iter().filter(|asked| asked.is_blob()).count()
    }

    pub fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(&self.address).ok();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One request; the connection ends with the answer.
fn serve(stream: TcpStream, upstream: &str, log: &Mutex<Vec<Asked>>, decide: &Decide) -> io::Result<()> {
    let mut client = BufReader::new(stream.try_clone()?);
    let mut lines = head(&mut client)?;
    if lines.is_empty() {
        return Ok(());
    }
    let first = lines.remove(0);
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let asked = Asked { method, path, headers: lines };
    let before = {
        let mut log = log.lock().unwrap();
        let same = |old: &&Asked| old.method == asked.method && old.path == asked.path;
        let before = log.iter().filter(same).count();
        log.push(asked.clone());
        before
    };
    let act = decide(&asked, before);
    let mut stream = stream;
    if let Act::Answer(answer) = act {
        let answer = answer.replacen('\n', "\nConnection: close\n", 1);
        stream.write_all(answer.replace('\n', "\r\n").as_bytes())?;
        return stream.shutdown(Shutdown::Both);
    }
    let mut server = TcpStream::connect(upstream)?;
    let mut request = format!("{first}\r\n");
    for line in &asked.headers {
        let name = line.split(':').next().unwrap().to_ascii_lowercase();
        if name != "connection" && !(name == "range" && matches!(act, Act::NoRange)) {
            request += &format!("{line}\r\n");
        }
    }
    server.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes())?;
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    io::copy(&mut client.take(length), &mut server)?;
    let mut answer = BufReader::new(server);
    let lines = head(&mut answer)?;
    stream.write_all(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes())?;
    match act {
        Act::Cut(after) => {
            io::copy(&mut answer.take(after as u64), &mut stream)?;
        }
        Act::Stall(after) => {
            io::copy(&mut answer.take(after as u64), &mut stream)?;
            io::copy(&mut stream, &mut io::sink())?;
        }
        Act::Wrong(at) => {
            let mut body = Vec::new();
            answer.read_to_end(&mut body)?;
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1;
            }
            stream.write_all(&body)?;
        }
        _ => {
            io::copy(&mut answer, &mut stream)?;
        }
    }
    stream.shutdown(Shutdown::Both)
}

/// The lines up to an empty one.
fn head(stream: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}
