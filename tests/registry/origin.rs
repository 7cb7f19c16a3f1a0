//! Servers of another origin, to which a registry leads: their refusals are theirs, and no login helps.

use std::time::Duration;

use plywood::archive::Fetch;
use plywood::image::{Descriptor, MediaType};
use plywood::registry::{Client, Credentials, RegistryError};

use crate::script::{Got, Script, reply};
use crate::server::options;
use crate::shop::name;

fn clients() -> Vec<Client> {
    let credentials = [None, Some(Credentials::password("me", "SECRET"))];
    let client = |credentials| {
        let mut options = options();
        options.credentials = credentials;
        // A retry would not end.
        options.back_off = Duration::from_secs(3600);
        Client::new(options).unwrap()
    };
    credentials.into_iter().map(client).collect()
}

/// A server that refuses everything, and asks for authentication.
fn refusing(status: u16) -> Script {
    Script::start(move |_: &Got, own: &str| {
        let bearer = format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\"");
        reply(status, &[&bearer, "WWW-Authenticate: Basic realm=x"], "go away")
    })
}

#[track_caller]
fn check(error: &RegistryError, other: &Script, registry: &Script, status: u16) {
    let RegistryError::OtherServer { server, status: found, .. } = error else { panic!("{error:?}") };
    assert_eq!((server, *found), (&other.address, status));
    assert_eq!(error.kind(), "registry");
    let said = error.to_string();
    for word in [&other.address[..], &registry.address, "refused", "go away"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(error.facts().contains(&("server", other.address.clone())));
}

#[test]
fn an_upload_that_another_origin_refuses_is_not_tried_again() {
    for status in [400, 401, 403, 404] {
        for client in clients() {
            let other = refusing(status);
            let to = format!("Location: http://{}/upload", other.address);
            let registry = Script::start(move |_: &Got, _: &str| reply(202, &[&to], ""));
            let blob = Descriptor::of(MediaType::OCI_LAYER, b"blob");
            let repository = client.repository(&name(&registry.address, "me/web:1")).unwrap();
            let error = repository.send(&blob, &|| Ok(Box::new(&b"blob"[..])), &|_| ()).unwrap_err();
            check(&error, &other, &registry, status);
            assert_eq!((registry.got().len(), other.got().len()), (1, 1));
        }
    }
}

#[test]
fn a_blob_that_another_origin_refuses_asks_for_no_login() {
    for status in [400, 401, 403] {
        for client in clients() {
            let other = refusing(status);
            let to = format!("Location: http://{}/blob", other.address);
            let registry = Script::start(move |_: &Got, _: &str| reply(307, &[&to], ""));
            let blob = Descriptor::of(MediaType::OCI_LAYER, b"blob");
            let repository = client.repository(&name(&registry.address, "me/web:1")).unwrap();
            let error = repository.fetch(&blob, 0).err().expect("it is refused");
            let error = RegistryError::of(&error).expect("it is of the registry");
            check(error, &other, &registry, status);
            assert_eq!((registry.got().len(), other.got().len()), (1, 1));
            assert!(!format!("{:?}", other.got()).contains("uthorization"));
        }
    }
}

#[test]
fn a_refusal_of_the_authorization_server_is_one_of_the_registry() {
    for (status, credentials) in [
        (401, Credentials::password("me", "SECRET")),
        (403, Credentials::IdentityToken("SECRET".to_owned())),
        (400, Credentials::IdentityToken("SECRET".to_owned())),
    ] {
        let authorization = refusing(status);
        let realm = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"", authorization.address);
        let registry = Script::start(move |_: &Got, _: &str| reply(401, &[&realm], ""));
        let mut options = options();
        options.credentials = Some(credentials);
        let client = Client::new(options).unwrap();
        let repository = client.repository(&name(&registry.address, "me/web:1")).unwrap();
        let error = repository.resolve().unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_tool_asks_for_no_login_where_another_origin_refuses() {
    for status in [401, 403] {
        let other = refusing(status);
        let to = format!("Location: http://{}/x", other.address);
        let registry = Script::start(move |_: &Got, _: &str| reply(307, &[&to], ""));
        let dir = crate::common::scratch();
        let there = format!("{}/me/web:1", registry.address);
        let refused = crate::tool::plywood(dir.path(), "store", &["pull", "--json", &there]);
        assert_eq!(refused.status.code(), Some(1));
        let said: serde_json::Value = serde_json::from_slice(&refused.stderr).unwrap();
        assert_eq!(said["kind"], "registry", "{said}");
        assert!(said.to_string().contains(&other.address), "{said}");
        assert!(!said.to_string().contains("login"), "{said}");
    }
}
