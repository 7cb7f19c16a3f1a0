//! Programs that keep credentials: `docker-credential-NAME get`, as [docker
//! has them](https://github.com/docker/docker-credential-helpers#development).

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use serde::Deserialize;

use super::{Credentials, RegistryError};
use crate::text::quotation;

/// So many bytes are read of each of a helper's streams.
const MOST_BYTES: usize = 64 << 10;

/// The name that says that the secret is a token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper called `name` for what it has for `server`.
pub(super) fn get(name: &str, server: &str) -> Result<Option<Credentials>, RegistryError> {
    let program = format!("docker-credential-{name}");
    let failed = |reason: String| {
        let (program, registry) = (program.clone(), server.to_owned());
        RegistryError::Helper { program, registry, reason }
    };
    // It is the name of a program, and no way to one elsewhere.
    if name.contains('/') {
        return Err(failed("its name has a slash".to_owned()));
    }
    let Output { status, stdout, stderr } =
        run(&program, server).map_err(|error| failed(error.to_string()))?;
    if stdout.len() > MOST_BYTES {
        return Err(failed(format!("it printed more than {MOST_BYTES} bytes")));
    }
    if !status.success() {
        let said = [stdout, stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        return match said.to_lowercase().contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("{} ({status})", quotation(&said)))),
        };
    }
    // What it said is a secret, or may be one.
    let answer: Answer = serde_json::from_slice(&stdout)
        .map_err(|_| failed("its answer is not what such a program answers".to_owned()))?;
    Ok(Some(match answer {
        Answer { username, secret } if username == TOKEN => Credentials::IdentityToken(secret),
        Answer { username: user, secret: password } => Credentials::Password { user, password },
    }))
}

/// What a helper printed, at most one byte more than is read of it.
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn run(program: &str, server: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let talked = talk(&mut child, server);
    // One that goes on to print is killed; one that has ended is not there to be.
    if talked.as_ref().map_or(true, |(stdout, stderr)| stdout.len().max(stderr.len()) > MOST_BYTES) {
        child.kill()?;
    }
    let status = child.wait()?;
    let (stdout, stderr) = talked?;
    Ok(Output { status, stdout, stderr })
}

/// Asks, and reads both streams to their end or to the bound.
fn talk(child: &mut Child, server: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(server.as_bytes()) {
            // One that does not read answers all the same.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let complaints = thread::Builder::new().spawn_scoped(scope, || bounded(stderr))?;
        let answer = bounded(stdout);
        // Its words are read to the end also where its answer cannot be.
        let complaints = complaints.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((answer?, complaints?))
    })
}

/// Reads a stream to its end, or one byte more than it may have; then it is closed, so that the program ends.
fn bounded(stream: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Runs a helper of these lines.
    fn run_script(script: &str) -> io::Result<Output> {
        let dir = tempfile::tempdir()?;
        let program = dir.path().join("helper");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        run(program.to_str().unwrap(), "r.io")
    }

    #[test]
    fn a_helper_that_prints_without_end_is_stopped() {
        for script in ["yes", "yes >&2", "yes & yes >&2; wait"] {
            let output = run_script(script).unwrap();
            assert!(output.stdout.len().max(output.stderr.len()) == MOST_BYTES + 1, "{script}");
        }
        let output = run_script("cat; echo said >&2; exit 3").unwrap();
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"r.io"[..], &b"said\n"[..]));
        assert_eq!(output.status.code(), Some(3));
    }
}
