//! [`Ahead`]: a blob as the tar inside it, hashed as it passes, decoded by another thread if one has time.
//!
//! Decompressing and hashing cost about as much as writing the files. While no other thread is idle the decoder works
//! right into the reader's buffer; once one is, it moves there for good and sends blocks through a short channel. The
//! bytes are the same either way, and memory stays bounded by the number of blocks.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{
    Receiver, RecvError, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel,
};

use super::Help;
use super::writers::Writers;
use crate::codec::Decoder;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::limits::Limits;

/// Size of the blocks between the threads: small enough for a cache, large enough that handing over costs nothing.
const BLOCK: usize = 256 << 10;

/// Blocks that may wait.
const DEPTH: usize = 8;

/// Layers smaller than this are not worth another thread.
const WORTH_IT: u64 = 1 << 20;

/// A compressed layer, from the compressed bytes.
pub(super) type Blob<'env> = Box<dyn Read + Send + 'env>;

/// Reads the tar inside a blob.
pub(super) struct Ahead<'c, 'env> {
    help: Option<&'c Help<'c, 'env>>,
    work: Work<'env>,
}

enum Work<'env> {
    Here(Box<Decoding<'env>>),
    Elsewhere(Pipe),
    Ended(Digest, u64),
    Failed,
}

impl<'c, 'env> Ahead<'c, 'env> {
    /// Begins with `blob`, hashing with `algorithm`.
    pub(super) fn new(
        blob: Blob<'env>,
        algorithm: Algorithm,
        limits: &Limits,
        help: Option<&'c Help<'c, 'env>>,
    ) -> io::Result<Self> {
        let decoder = Decoder::new(blob, limits)?.with_holes();
        let decoding = Decoding { decoder, hasher: Hasher::new(algorithm), bytes: 0 };
        Ok(Self { help, work: Work::Here(Box::new(decoding)) })
    }

    /// The digest and length of the whole tar; `None` if it was not read to its end.
    pub(super) fn digest(&self) -> Option<(Digest, u64)> {
        match self.work {
            Work::Ended(digest, bytes) => Some((digest, bytes)),
            _ => None,
        }
    }

    /// Moves the decoder to a thread that waits for work, if there is one.
    fn delegate(&mut self) {
        let Some(Help { crew, writers }) = self.help.filter(|help| help.crew.is_idle()) else { return };
        let Work::Here(decoding) = &self.work else { return };
        if decoding.bytes < WORTH_IT {
            return;
        }
        let (blocks, received) = sync_channel(DEPTH);
        let (recycle, spent) = channel();
        let pipe = Pipe { received, recycle, block: Vec::new(), position: 0, writers: Arc::clone(writers) };
        let Work::Here(decoding) = std::mem::replace(&mut self.work, Work::Elsewhere(pipe)) else { return };
        // A task that is not taken comes back whole, but as a closure; run here it would wait for its own reader. So
        // the decoder travels beside it.
        let (hand_over, decoding_there) = channel::<Box<Decoding<'env>>>();
        let writers_there = Arc::clone(writers);
        let task = move || {
            if let Ok(decoding) = decoding_there.recv() {
                decoding.run(&blocks, &spent, &writers_there);
            }
        };
        if crew.offer(Box::new(task)).is_err() {
            self.work = Work::Here(decoding);
        } else if let Err(back) = hand_over.send(decoding) {
            self.work = Work::Here(back.0);
        } else {
            writers.attend();
        }
    }
}

impl Read for Ahead<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.delegate();
        let read = match &mut self.work {
            Work::Here(decoding) => decoding.read(buffer),
            Work::Elsewhere(pipe) => match pipe.read(buffer) {
                Ok(Ok(count)) => Ok(count),
                Ok(Err((digest, bytes))) => {
                    self.work = Work::Ended(digest, bytes);
                    Ok(0)
                }
                Err(error) => Err(error),
            },
            Work::Ended(..) => return Ok(0),
            Work::Failed => return Err(io::Error::other("reading this blob failed before")),
        };
        match &read {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => self.work = Work::Failed,
            Ok(0) if !buffer.is_empty() => {
                if let Work::Here(decoding) = &self.work {
                    self.work = Work::Ended(decoding.hasher.clone().finish(), decoding.bytes);
                }
            }
            _ => {}
        }
        read
    }
}

/// A decoder and the hash of what it has given out.
struct Decoding<'env> {
    decoder: Decoder<Blob<'env>>,
    hasher: Hasher,
    bytes: u64,
}

impl Decoding<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    /// Decodes to the end, or until nobody wants more. Where it would wait for the reader it helps it instead.
    fn run(mut self: Box<Self>, blocks: &SyncSender<Message>, spent: &Receiver<Vec<u8>>, writers: &Writers) {
        loop {
            let mut block = spent.try_recv().unwrap_or_default();
            block.resize(BLOCK, 0);
            let message = match self.fill(&mut block) {
                Ok(0) => Message::End(self.hasher.clone().finish(), self.bytes),
                Ok(count) => {
                    block.truncate(count);
                    Message::Block(block)
                }
                Err(error) => Message::Failed(error),
            };
            let last = !matches!(message, Message::Block(_));
            let mut sent = blocks.try_send(message);
            while let Err(TrySendError::Full(message)) = sent {
                sent = match writers.help() {
                    true => blocks.try_send(message),
                    false => blocks.send(message).map_err(TrySendError::from),
                };
            }
            if sent.is_err() || last {
                return;
            }
        }
    }

    fn fill(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < block.len() {
            match self.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before the error is worth nothing: the layer is not whole.
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

enum Message {
    Block(Vec<u8>),
    End(Digest, u64),
    Failed(io::Error),
}

/// The reader's end of the channel.
struct Pipe {
    received: Receiver<Message>,
    recycle: Sender<Vec<u8>>,
    block: Vec<u8>,
    position: usize,
    writers: Arc<Writers>,
}

impl Pipe {
    /// The next message. Until it comes there may be something to write.
    fn receive(&self) -> Result<Message, RecvError> {
        loop {
            match self.received.try_recv() {
                Err(TryRecvError::Empty) if self.writers.help() => {}
                Err(TryRecvError::Empty) => return self.received.recv(),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Ok(message) => return Ok(message),
            }
        }
    }

    /// The next bytes, or the digest and length at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Result<usize, (Digest, u64)>> {
        if self.position == self.block.len() {
            match self.receive().map_err(|_| io::Error::other("the thread that decodes the blob ended"))? {
                Message::Block(block) => {
                    let spent = std::mem::replace(&mut self.block, block);
                    self.position = 0;
                    // Nobody takes it any more once the decoder is through.
                    drop(self.recycle.send(spent));
                }
                Message::End(digest, bytes) => return Ok(Err((digest, bytes))),
                Message::Failed(error) => return Err(error),
            }
        }
        let count = buffer.len().min(self.block.len() - self.position);
        buffer[..count].copy_from_slice(&self.block[self.position..self.position + count]);
        self.position += count;
        Ok(Ok(count))
    }
}
