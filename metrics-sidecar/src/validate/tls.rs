//! The connector to the gateway: plain or TLS, with the system's certificates and those that were named.

use hyper::Uri;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Whom to trust, and under which name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    /// The gateway's URL.
    pub gateway: Option<&'a Uri>,
    /// Another name than that of its URL.
    pub host: Option<&'a str>,
    /// Certificates (PEM) besides the system's.
    pub ca: Option<&'a Path>,
    /// Take any certificate.
    pub insecure: bool,
}

/// A connector to a gateway.
///
/// # Errors
/// When `--ca` cannot be read, or `--host` is no name.
pub fn connector(trust: Trust<'_>) -> Result<HttpsConnector<HttpConnector>, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_secs(5)));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let config = if trust.insecure {
        let any = Arc::new(AnyCertificate(provider));
        config.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
    } else {
        let needed = trust.gateway.and_then(Uri::scheme_str) == Some("https");
        let roots = if needed { roots(trust.ca)? } else { RootCertStore::empty() };
        config.with_root_certificates(roots).with_no_client_auth()
    };
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    // A gateway chooses its certificate, and its routes, by this name.
    let name = trust.host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned());
    Ok(match name {
        Some(name) => {
            let name = ServerName::try_from(name).map_err(|error| format!("--host: {error}"))?;
            let resolver = FixedServerNameResolver::new(name);
            builder.with_server_name_resolver(resolver).enable_http1().wrap_connector(tcp)
        }
        None => builder.enable_http1().wrap_connector(tcp),
    })
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let wrong = |error: &dyn std::fmt::Display| format!("--ca {}: {error}", path.display());
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| wrong(&error));
        let (added, _) = roots.add_parsable_certificates(certificates?);
        if added == 0 {
            return Err(wrong(&"no certificate in it; expected PEM"));
        }
    }
    if roots.is_empty() {
        return Err("TLS: this system has no certificates to trust; name the gateway's by --ca FILE".to_owned());
    }
    Ok(roots)
}

/// `--insecure`.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
