//! Progress, cancellation and pins.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::common::image::{Layout, gzip};
use plywood::archive::{Destination, LoadError, LoadOptions, load};
use plywood::digest::Digest;

use crate::shop::*;

#[test]
fn the_caller_hears_how_far_it_is_and_can_stop_it() {
    let archive = gzip(&Layout::of(&db()).oci_archive());
    let heard = AtomicU64::new(0);
    let progress = |bytes| heard.store(bytes, Relaxed);
    let mut options = LoadOptions::default();
    options.progress = Some(&progress);
    Shop::new().with(|into| load(&archive[..], into, &options)).unwrap();
    assert_eq!(heard.load(Relaxed), archive.len() as u64);
    let stop = || true;
    options.cancelled = Some(&stop);
    let shop = Shop::new();
    let error = shop.with(|into| load(&archive[..], into, &options)).unwrap_err();
    assert!(matches!(error, LoadError::Cancelled), "{error:?}");
    assert!(shop.all().is_empty());
    for at in 1..20 {
        let asked = AtomicU64::new(0);
        let stop = || asked.fetch_add(1, Relaxed) == at;
        let mut options = LoadOptions::default();
        options.cancelled = Some(&stop);
        match shop.with(|into| load(&archive[..], into, &options)) {
            Err(error) => assert!(matches!(error, LoadError::Cancelled), "{error:?}"),
            Ok(_) => return,
        }
        assert!(shop.all().is_empty());
    }
}

#[test]
fn a_pin_that_fails_stops_it() {
    let shop = Shop::new();
    let archive = Layout::of(&db()).oci_archive();
    let workspace = shop.staging.workspace().unwrap();
    let pin = |_: &[Digest]| Err(plywood::fs::Error::new("pin", "x", std::io::Error::from_raw_os_error(28)));
    let into = Destination { blobs: &shop.blobs, workspace: &workspace, lent: None, pin: &pin };
    let error = load(&archive[..], &into, &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::Io(_)), "{error:?}");
    assert!(shop.all().is_empty());
}
