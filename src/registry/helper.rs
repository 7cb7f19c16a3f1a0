//! Programs that keep credentials: `docker-credential-NAME get`, as [docker
//! has them](https://github.com/docker/docker-credential-helpers#development).

use std::io::{self, Write};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Credentials, RegistryError};
use crate::text::quotation;

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
    let output = run(&program, server).map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        return match said.to_lowercase().contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("{} ({})", quotation(&said), output.status))),
        };
    }
    // What it said is a secret, or may be one.
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is not what such a program answers".to_owned()))?;
    Ok(Some(match answer {
        Answer { username, secret } if username == TOKEN => Credentials::IdentityToken(secret),
        Answer { username: user, secret: password } => Credentials::Password { user, password },
    }))
}

fn run(program: &str, server: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(server.as_bytes()) {
            // One that does not read answers all the same.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
            _ => {}
        }
    }
    child.wait_with_output()
}
