//! [`config`]: how connections are encrypted, and which certificates are trusted.
//!
//! Trusted are the authorities of the system and the certificates that the caller names. One of the caller's may also be the
//! server's own: `openssl req -x509` makes such certificates, and marks them as authorities, which the usual rules refuse for
//! a server. The caller's word counts then, as with curl, skopeo and podman; the name and the period of validity still have to be right.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

/// Returns the configuration for connections on which the certificates in `pems` are trusted besides those of the system.
///
/// # Errors
///
/// A sentence, if there is no certificate in one of `pems`, or one cannot be read.
pub(super) fn config(pems: &[Vec<u8>]) -> Result<ClientConfig, String> {
    let mut given = Vec::new();
    for pem in pems {
        let before = given.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            given.push(certificate.map_err(|error| format!("a certificate that is to be trusted: {error}"))?);
        }
        if given.len() == before {
            return Err("there is no certificate in what should be trusted".to_owned());
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(given, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    // The verifier is the usual one with one exception.
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// Trusts what the usual verifier trusts, and the certificates that the caller gave as those of servers.
#[derive(Debug)]
struct Verifier {
    /// `None` where there is no authority at all, neither the system's nor the caller's.
    usual: Option<Arc<WebPkiServerVerifier>>,
    given: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(given: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // A certificate of the system that cannot be read is trusted for nothing.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for certificate in &given {
            roots
                .add(certificate.clone())
                .map_err(|error| format!("a certificate that is to be trusted: {error}"))?;
        }
        let usual = match roots.is_empty() {
            true => None,
            false => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
                Some(builder.build().map_err(|error| error.to_string())?)
            }
        };
        Ok(Self { usual, given, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(usual) = &self.usual else {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let verdict = usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // The usual verifier checks the period of validity before either of these.
        if matches!(&verdict, Err(error) if is_authority(error) || is_unknown(error)) {
            // A certificate for another server is refused as such: trusting it would not help.
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            if self.given.contains(end_entity) {
                return Ok(ServerCertVerified::assertion());
            }
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns whether the certificate was refused because no authority signed it.
fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

/// Returns whether the certificate was refused because it is an authority's.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(source))) = error else { return false };
    matches!(source.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}
