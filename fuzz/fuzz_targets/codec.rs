//! Compressed streams against the reference decoders, and against themselves.
//!
//! The laws: what two decoders accept, they read alike; how the input is cut and how large the buffer is changes
//! nothing; what is encoded is decoded; a stream that was damaged or cut is an error or the same content.

#![no_main]

use std::io::{Read, Write};

use libfuzzer_sys::fuzz_target;
use plywood::codec::{CodecError, Compression, Decoder, Encoder, Encoding};
use plywood_fuzz::Pieces;

/// More than this of any content is not looked at.
const ENOUGH: u64 = 4 << 20;

/// The content, or why not; and whether it was all.
fn decode(stream: impl Read, buffer: usize) -> Result<(Vec<u8>, bool), CodecError> {
    let mut decoder = Decoder::new(stream, &Default::default()).expect("memory can be read");
    let mut content = Vec::new();
    let mut buffer = vec![0; buffer];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => return Ok((content, true)),
            Ok(count) => content.extend_from_slice(&buffer[..count]),
            Err(error) => {
                let error = CodecError::of(&error).expect("memory can be read").clone();
                let again = decoder.read(&mut [0]).expect_err("an error stays");
                assert_eq!(CodecError::of(&again), Some(&error));
                return Err(match error {
                    // When it is noticed, and as what, depends on how much is looked at together.
                    CodecError::Corrupt { compression, .. } => {
                        CodecError::Corrupt { compression, position: 0, reason: String::new() }
                    }
                    error => error,
                });
            }
        }
        if content.len() as u64 > ENOUGH {
            return Ok((content, false));
        }
    }
}

fn read_like_the_reference(stream: &[u8]) {
    let whole = decode(stream, 64 << 10);
    // One byte at a time is slow where there is much.
    let piece = if stream.len() > 4096 { 61 } else { 1 };
    let content = match whole {
        Ok((content, true)) => {
            assert_eq!(decode(Pieces(stream, piece), 37), Ok((content.clone(), true)));
            content
        }
        Ok((_, false)) => return,
        Err(error) => {
            assert_eq!(decode(Pieces(stream, piece), 37), Err(error));
            return;
        }
    };
    let mut expected = Vec::new();
    let accepted = match plywood::codec::sniff(stream) {
        Compression::Gzip => flate2::read::MultiGzDecoder::new(stream).read_to_end(&mut expected).is_ok(),
        Compression::Zstd => {
            let decoder = zstd::Decoder::new(stream).expect("memory can be had");
            decoder.take(2 * ENOUGH).read_to_end(&mut expected).is_ok()
        }
        Compression::None => {
            expected.extend_from_slice(stream);
            true
        }
        _ => return, // there is no other decoder here
    };
    assert!(!accepted || expected == content, "two decoders read different things");
}

fn encode(encoding: Encoding, content: &[u8], piece: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), encoding).expect("the level exists");
    for piece in content.chunks(piece) {
        encoder.write_all(piece).expect("memory can be written");
    }
    encoder.finish().expect("memory can be written")
}

fn survive_damage(choice: u8, at: u16, content: &[u8]) {
    let encoding = match choice % 4 {
        0 => Encoding::Gzip { level: 1 },
        1 => Encoding::Gzip { level: 6 },
        2 => Encoding::Gzip { level: 9 },
        _ => Encoding::Zstd { level: 1 },
    };
    let stream = encode(encoding, content, usize::MAX);
    assert!(stream == encode(encoding, content, 1 + usize::from(at)), "the size of writes leaves a trace");
    assert!(decode(&stream[..], 1000) == Ok((content.to_vec(), true)));

    let at = usize::from(at) % stream.len();
    if at >= 4 {
        let cut = decode(&stream[..at], 1000);
        assert!(matches!(cut, Err(CodecError::Truncated { .. })), "{cut:?}");
    }
    let mut damaged = stream;
    damaged[at] ^= choice | 1;
    // What does not look compressed any more is whatever it is.
    if plywood::codec::sniff(&damaged) == encoding.compression() {
        let read = decode(&damaged[..], 1000);
        assert!(read.is_err() || read == Ok((content.to_vec(), true)), "damage went unnoticed");
    }
}

fuzz_target!(|input: &[u8]| match input {
    [b'!', choice, low, high, content @ ..] =>
        survive_damage(*choice, u16::from_le_bytes([*low, *high]), content),
    _ => read_like_the_reference(input),
});
