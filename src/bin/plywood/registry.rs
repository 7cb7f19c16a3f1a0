//! `pull` and `push`: images from and to registries.

use std::env;
use std::fs;
use std::path::PathBuf;

use plywood::archive::AbsentPlatforms;
use plywood::image::Reference;
use plywood::registry::{Client, ClientOptions, RegistryError, Transport};
use plywood::{FetchOptions, Image, Platforms, PushOptions, StoreError, Unpack};
use serde_json::json;

use crate::args::{PullArgs, PushArgs, RegistryArgs};
use crate::errors::Failure;
use crate::global::Context;
use crate::progress::Transfers;
use crate::signals::Interrupt;
use crate::{images, load};

/// `plywood pull`
pub(crate) fn pull(context: &Context, args: &PullArgs) -> Result<(), Failure> {
    let name = parse(&args.name)?;
    let interrupt = Interrupt::watch()?;
    let client = client(&args.registry)?;
    let store = context.ensure()?;
    let transfers = Transfers::new("pulling", context.output);
    let progress = |transfer| transfers.tell(transfer);
    let mut options = FetchOptions::default();
    options.platforms = match (args.all_platforms, &args.platforms[..]) {
        (true, _) => Platforms::All,
        (false, []) => Platforms::Host,
        (false, platforms) => Platforms::Of(platforms.to_vec()),
    };
    options.unpack = if args.on_demand { Unpack::OnDemand } else { Unpack::Now };
    options.progress = Some(&progress);
    options.cancel = Some(interrupt.flag());
    let pulled = store.pull(&name, &client, &options);
    let hint = |error: &StoreError| hint(error, &args.registry);
    let pulled = pulled.map_err(|error| interrupt.explain(Failure::from(error).hinted(hint)));
    drop(transfers);
    load::report(context.output, "Pulled", &[pulled?])
}

/// `plywood push`
pub(crate) fn push(context: &Context, args: &PushArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let image = images::find(&store, &args.image)?;
    let name = destination(&image, args)?;
    let interrupt = Interrupt::watch()?;
    let client = client(&args.registry)?;
    let transfers = Transfers::new("pushing", context.output);
    let progress = |transfer| transfers.tell(transfer);
    let mut options = PushOptions::default();
    if let Some(compression) = args.compression {
        options.compression = compression;
    }
    options.platform.clone_from(&args.platform);
    options.absent = if args.only_present { AbsentPlatforms::LeaveOut } else { AbsentPlatforms::Refuse };
    options.progress = Some(&progress);
    options.cancel = Some(interrupt.flag());
    let pushed = store.push(&image, &name, &client, &options);
    let hint = |error: &StoreError| hint(error, &args.registry);
    let pushed = pushed.map_err(|error| interrupt.explain(Failure::from(error).hinted(hint)));
    drop(transfers);
    let pushed = pushed?;
    for warning in &pushed.warnings {
        context.output.warn(&warning.to_string());
    }
    let digest = pushed.target.digest.to_string();
    if context.output.json {
        let warnings: Vec<_> = pushed.warnings.iter().map(ToString::to_string).collect();
        return context.output.json(&json!({
            "name": name.familiar(), "id": image.id().to_string(), "digest": digest,
            "blobs": pushed.moved, "bytes": pushed.bytes, "warnings": warnings,
        }));
    }
    context.output.line(match context.output.quiet {
        true => digest,
        false => format!("Pushed image: {} ({digest})", name.familiar()),
    })
}

/// Where to, and under which name.
fn destination(image: &Image, args: &PushArgs) -> Result<Reference, Failure> {
    if let Some(destination) = &args.destination {
        return parse(destination);
    }
    // A registry gives digests itself.
    let said = images::said_name(image, &args.image).filter(|name| name.digest().is_none());
    let tags: Vec<_> = image.names().iter().filter(|name| name.digest().is_none()).collect();
    match (said, &tags[..]) {
        (Some(name), _) => Ok(name.clone()),
        (None, [name]) => Ok((*name).clone()),
        _ => Err(Failure::Usage("where to? say it by name, or say a DESTINATION".to_owned())),
    }
}

fn parse(name: &str) -> Result<Reference, Failure> {
    Reference::parse_familiar(name).map_err(|error| Failure::Invalid(error.to_string()))
}

/// The client, with what the environment says.
fn client(args: &RegistryArgs) -> Result<Client, Failure> {
    let mut options = ClientOptions::default();
    options.transport = match (args.plain_http, args.tls) {
        (true, _) => Transport::PlainHttp,
        (_, true) => Transport::Tls,
        _ => Transport::Auto,
    };
    for path in &args.certificate {
        let pem = fs::read(path).map_err(|source| Failure::io(format!("read {path:?}"), source))?;
        options.certificates.push(pem);
    }
    options.auth_files = match args.authfile.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => {
            // What was asked for has to be there.
            fs::metadata(path).map_err(|source| Failure::io(format!("read {path:?}"), source))?;
            vec![path.clone()]
        }
        None => auth_files(),
    };
    options.run_helpers = true;
    let variable = |names: [&str; 2]| {
        names.into_iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    };
    options.https_proxy = variable(["https_proxy", "HTTPS_PROXY"]);
    // In capitals a web server sets it to what a stranger says.
    options.http_proxy = variable(["http_proxy"; 2]);
    options.no_proxy = variable(["no_proxy", "NO_PROXY"]);
    Client::new(options).map_err(|error| StoreError::from(error).into())
}

/// Where podman and docker keep credentials, in the order in which podman looks.
fn auth_files() -> Vec<PathBuf> {
    let directory = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = directory("HOME");
    let below = |path: &str| home.as_ref().map(|home| home.join(path));
    let run = directory("XDG_RUNTIME_DIR")
        .unwrap_or_else(|| format!("/run/containers/{}", rustix::process::getuid().as_raw()).into());
    let run = match env::var_os("XDG_RUNTIME_DIR") {
        Some(_) => run.join("containers/auth.json"),
        None => run.join("auth.json"),
    };
    let config = directory("XDG_CONFIG_HOME").or_else(|| below(".config"));
    let docker = directory("DOCKER_CONFIG").or_else(|| below(".docker"));
    let config = config.map(|config| config.join("containers/auth.json"));
    let docker = docker.map(|docker| docker.join("config.json"));
    [Some(run), config, docker].into_iter().flatten().collect()
}

/// Returns the next step after a registry refused.
fn hint(error: &StoreError, args: &RegistryArgs) -> Option<String> {
    let refused = match error {
        StoreError::ForeignLayer { .. } => return Some(images::BRING.to_owned()),
        StoreError::Registry(refused) => refused,
        other => RegistryError::of(other)?,
    };
    match refused {
        RegistryError::Denied { registry, with_credentials, .. } => Some(match with_credentials {
            false => format!("log in with `docker login {registry}` or `podman login {registry}`"),
            true => format!(
                "the credentials for {registry} are wrong or not enough: `docker login {registry}` or `podman login {registry}` replaces them"
            ),
        }),
        RegistryError::Unreachable { source, .. } => {
            let text = crate::errors::chain(source.as_ref());
            // Nobody signed it, or it signed itself as an authority. Any other fault stays when the certificate is trusted.
            if ["UnknownIssuer", "CaUsedAsEndEntity"].iter().any(|fault| text.contains(fault)) {
                return Some(match !args.certificate.is_empty() {
                    false => "--certificate FILE trusts one that the system does not".to_owned(),
                    true => {
                        "the certificate given with --certificate is not the server's, and did not sign it"
                            .to_owned()
                    }
                });
            }
            // A server without TLS answers its beginning with something else.
            text.contains("InvalidContentType").then(|| "--plain-http speaks without TLS".to_owned())
        }
        // How a server with TLS answers a request in plain http: Go, nginx, Apache.
        RegistryError::Refused { status: 400, registry, said, .. } => {
            let words =
                ["HTTP request to an HTTPS server", "HTTP request was sent to HTTPS", "HTTP to an SSL"];
            match (words.iter().any(|words| said.contains(words)), args.plain_http) {
                (true, true) => Some("without --plain-http, plywood speaks TLS to it".to_owned()),
                // Others are reached by TLS already.
                (true, false) if !args.tls && is_local(registry) => Some("--tls speaks TLS".to_owned()),
                _ => None,
            }
        }
        RegistryError::Broken { .. } => Some("the next attempt goes on where this one ended".to_owned()),
        _ => None,
    }
}

/// Returns whether plywood speaks plain http to the registry unless it is told otherwise.
fn is_local(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
