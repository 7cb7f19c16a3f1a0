//! [`call`]: one request and its answer, with the rules for redirects, credentials, sizes and speed.
//!
//! - Credentials are shown to the registry's own origin only: scheme, host and port. No redirect changes that.
//! - No redirect leads from https to http. A request whose URL or body holds a secret follows none.
//! - Every body is read up to a bound, and no answer may take for ever: it has to begin in time, and to bring so many bytes in so
//!   much time.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::access::Grant;
use super::challenge::{Challenge, challenges};
use super::error::said;
use crate::text::quotation;

/// Redirects of one request.
const MOST_REDIRECTS: usize = 10;
/// So many bytes of an error's body are read.
const MOST_WORDS: usize = 16 << 10;
/// The time for reading them.
const TIME_FOR_WORDS: Duration = Duration::from_secs(10);

/// An answer of a registry.
pub(super) enum Answer {
    Good(Response),
    Bad(Complaint),
}

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) status: u16,
    pub(super) said: String,
    pub(super) retry_after: Option<Duration>,
    /// The authentication that it asks for.
    pub(super) challenges: Vec<Challenge>,
    /// The server that answered, as `host:port`, if it is of another origin than the server that was asked.
    pub(super) other: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection failed.
    Http(reqwest::Error),
    /// The answer is against the rules; the text goes behind "answered".
    Answer(String),
    /// It took too long; the text says what.
    Slow(String),
    /// The answer is longer than it may be.
    TooLong,
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error)
    }
}

/// What an answer has to bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The time until it begins.
    pub(super) patience: Duration,
    /// The time in which so many bytes have to come.
    pub(super) window: Duration,
    pub(super) bytes: u64,
}

/// A request that can be sent more than once.
pub(super) struct Call {
    pub(super) client: reqwest::Client,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) grant: Grant,
    /// The URL of whose origin the grant is.
    pub(super) base: Url,
    /// Whether the URL or the body holds a secret.
    pub(super) is_secret: bool,
    pub(super) pace: Pace,
}

impl Call {
    fn build(&self, url: &Url) -> RequestBuilder {
        let mut built = self.client.request(self.method.clone(), url.clone()).headers(self.headers.clone());
        // A digest is that of the bytes as they are stored.
        built = built.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(body) = &self.body {
            built = built.body(body.clone());
        }
        if is_same_origin(url, &self.base) { self.grant.show(built) } else { built }
    }

    /// Returns where a redirect leads, or why it is not followed.
    fn redirected(&self, from: &Url, response: &Response) -> Result<Option<Url>, Fault> {
        let status = response.status();
        let again = matches!(status.as_u16(), 307 | 308);
        let is_read = matches!(self.method, Method::GET | Method::HEAD);
        if !again && !matches!(status.as_u16(), 301..=303) {
            return Ok(None);
        }
        let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
        let to = resolve(from, location)?;
        if self.is_secret {
            return Err(Fault::Answer(format!(
                "{status} to a request that holds a secret, and is not followed"
            )));
        }
        let is_own = is_same_origin(&to, &self.base);
        match (is_read, again && is_own) {
            (true, _) | (_, true) => Ok(Some(to)),
            _ => Err(Fault::Answer(format!("{status} to a request that writes, and is not followed"))),
        }
    }
}

/// Sends a request, follows redirects as far as they are allowed, and reads the words of an error.
pub(super) async fn call(call: Call) -> Result<Answer, Fault> {
    let mut url = call.url.clone();
    for _ in 0..=MOST_REDIRECTS {
        let response = within(call.pace.patience, call.build(&url).send()).await??;
        match call.redirected(&url, &response)? {
            Some(next) => url = next,
            None => {
                return Ok(judge(response, &call.base).await);
            }
        }
    }
    Err(Fault::Answer(format!("with more than {MOST_REDIRECTS} redirects")))
}

/// Reads the words of an answer that is an error. `base` is the URL of the server that was asked.
pub(super) async fn judge(mut response: Response, base: &Url) -> Answer {
    if response.status().is_success() {
        return Answer::Good(response);
    }
    let (status, headers) = (response.status(), response.headers().clone());
    let other = (!is_same_origin(response.url(), base)).then(|| authority(response.url()));
    let mut words = Vec::new();
    let read = async {
        // A body that breaks is not worth another error.
        while words.len() < MOST_WORDS
            && let Ok(Some(more)) = response.chunk().await
        {
            words.extend_from_slice(&more[..more.len().min(MOST_WORDS - words.len())]);
        }
    };
    // Neither is one that does not end.
    tokio::time::timeout(TIME_FOR_WORDS, read).await.unwrap_or_default();
    Answer::Bad(Complaint {
        status: status.as_u16(),
        said: explain(status, &words),
        retry_after: retry_after(&headers),
        // Another server cannot ask for the credentials of this one.
        challenges: if other.is_none() { challenges(&headers) } else { Vec::new() },
        other,
    })
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn body(mut response: Response, limit: u64, pace: Pace) -> Result<Vec<u8>, Fault> {
    refuse_coding(&response)?;
    let mut bytes = Vec::new();
    let mut speed = Speed::new(pace);
    while let Some(more) = response.chunk().await? {
        if bytes.len() as u64 + more.len() as u64 > limit {
            return Err(Fault::TooLong);
        }
        bytes.extend_from_slice(&more);
        speed.count(more.len() as u64)?;
    }
    Ok(bytes)
}

/// Refuses an answer in a content coding. None was asked for, and digests and sizes are of the bytes without one.
///
/// # Errors
///
/// [`Fault::Answer`].
pub(super) fn refuse_coding(response: &Response) -> Result<(), Fault> {
    for coding in response.headers().get_all(CONTENT_ENCODING) {
        let coding = String::from_utf8_lossy(coding.as_bytes());
        if !coding.trim().is_empty() && !coding.trim().eq_ignore_ascii_case("identity") {
            let coding = quotation(&coding);
            return Err(Fault::Answer(format!("in the content coding {coding}, which was not asked for")));
        }
    }
    Ok(())
}

/// Finds out whether a transfer is slower than it may be.
#[derive(Debug)]
pub(super) struct Speed {
    pace: Pace,
    begun: Instant,
    bytes: u64,
}

impl Speed {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, begun: Instant::now(), bytes: 0 }
    }

    /// Counts bytes that came.
    ///
    /// # Errors
    ///
    /// [`Fault::Slow`] if too few came in the time that is over.
    pub(super) fn count(&mut self, bytes: u64) -> Result<(), Fault> {
        self.bytes += bytes;
        let (took, came) = (self.begun.elapsed(), self.bytes);
        if took < self.pace.window {
            return Ok(());
        }
        let (pace, begun) = (self.pace, Instant::now());
        *self = Self { pace, begun, bytes: 0 };
        match came < pace.bytes {
            true => Err(Fault::Slow(format!("{came} bytes in {} seconds", took.as_secs()))),
            false => Ok(()),
        }
    }
}

/// Waits for `future`, so long.
pub(super) async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Result<T, Fault> {
    let late = |_| Fault::Slow(format!("no answer in {} seconds", time.as_secs()));
    tokio::time::timeout(time, future).await.map_err(late)
}

/// Resolves the `Location` of an answer to a request for `from`, as RFC 9110, 10.2.2, has it.
///
/// # Errors
///
/// [`Fault::Answer`] if it is no URL of HTTP, or leads from https to http.
pub(super) fn resolve(from: &Url, location: &HeaderValue) -> Result<Url, Fault> {
    let to = std::str::from_utf8(location.as_bytes()).ok().and_then(|location| from.join(location).ok());
    let Some(mut to) = to.filter(|to| matches!(to.scheme(), "http" | "https") && to.has_host()) else {
        return Err(Fault::Answer("with a location that is no URL".to_owned()));
    };
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(Fault::Answer("with a location that leads from https to http".to_owned()));
    }
    // Names and passwords in a URL are credentials that nobody gave.
    if to.set_username("").is_err() || to.set_password(None).is_err() {
        return Err(Fault::Answer("with a location that is no URL".to_owned()));
    }
    Ok(to)
}

/// Returns the address of a server, as `host:port`.
pub(super) fn authority(url: &Url) -> String {
    // Registries choose the hosts in their locations. A longer one is the name of no server.
    let host = quotation(url.host_str().unwrap_or_default());
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

/// Returns whether scheme, host and port are the same.
pub(super) fn is_same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// Returns whether `host`, as it stands in a URL or reference, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns whether asking again cannot help: the answer is not HTTP, or the certificate is refused.
pub(super) fn is_final(error: &reqwest::Error) -> bool {
    let is_parse = |cause: &(dyn Error + 'static)| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
    };
    error.is_builder() || any_cause(error, is_parse) || is_certificate(error)
}

/// Returns whether the other side's certificate was refused.
pub(super) fn is_certificate(error: &reqwest::Error) -> bool {
    any_cause(error, |cause| matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

/// Returns whether `error`, or an error that caused it, is the one that is looked for.
fn any_cause(error: &reqwest::Error, is_it: impl Fn(&(dyn Error + 'static)) -> bool) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if is_it(error) {
            return true;
        }
        // The source of an io::Error is that of the error it holds.
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = held.map_or_else(|| error.source(), |held| Some(held as &(dyn Error + 'static)));
    }
    false
}

/// The registry's words, or those of the standard.
pub(super) fn explain(status: StatusCode, body: &[u8]) -> String {
    match said(body) {
        said if said.is_empty() => status.canonical_reason().unwrap_or_default().to_owned(),
        said => said,
    }
}

/// In seconds; a date is for a caller that has a clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(from: &str, to: &str) -> Result<String, String> {
        let from = Url::parse(from).unwrap();
        match resolve(&from, &HeaderValue::from_str(to).unwrap()) {
            Ok(to) => Ok(to.to_string()),
            Err(fault) => Err(format!("{fault:?}")),
        }
    }

    #[test]
    fn a_location_may_be_relative_and_never_leads_from_https_to_http() {
        let from = "https://r.io/v2/x/blobs/uploads/?a=b";
        for (to, expected) in [
            ("/v2/x/blobs/uploads/1?_state=2", "https://r.io/v2/x/blobs/uploads/1?_state=2"),
            ("1?_state=2", "https://r.io/v2/x/blobs/uploads/1?_state=2"),
            ("?c", "https://r.io/v2/x/blobs/uploads/?c"),
            ("//s.io/1", "https://s.io/1"),
            ("https://me:secret@s.io:444/1", "https://s.io:444/1"),
        ] {
            assert_eq!(location(from, to).as_deref(), Ok(expected));
        }
        for refused in ["http://r.io/", "file:///etc/passwd", "https://", "data:,x"] {
            location(from, refused).unwrap_err();
        }
        assert_eq!(location("http://r.io/", "https://r.io/").as_deref(), Ok("https://r.io/"));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let base = Url::parse("https://r.io/v2/").unwrap();
        for (url, same) in [
            ("https://r.io:443/x", true),
            ("https://R.IO/x", true),
            ("https://r.io:444/x", false),
            ("http://r.io/x", false),
            ("https://s.r.io/", false),
        ] {
            assert_eq!(is_same_origin(&Url::parse(url).unwrap(), &base), same, "{url}");
        }
    }
}
