//! Mutual TLS to pods with workload certificates, as Istio's agent keeps them in a folder.
//!
//! The certificates live for a day: they are read again when their files change. They may come after this process:
//! until then asking a pod fails and says so. A pod's certificate must be of the same mesh (`root-cert.pem`); its name
//! is not compared, as it names a service account (SPIFFE) and not an address, and who the pod is the API server says.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Names of the files, as Istio's agent gives them.
const FILES: [&str; 3] = ["cert-chain.pem", "key.pem", "root-cert.pem"];

/// What Envoy's listeners under PERMISSIVE mTLS know workloads by; under STRICT they don't look.
const ALPN: [&[u8]; 2] = [b"istio-http/1.1", b"http/1.1"];

/// A TLS configuration with the certificates in `folder`; without one it trusts nobody, and is not used.
///
/// # Errors
/// When the TLS library refuses its own defaults.
pub fn client_config(folder: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let Some(folder) = folder else {
        return Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    let folder = Arc::new(Folder { path: folder.to_owned(), provider, read: Mutex::default() });
    let verifier = Arc::clone(&folder) as Arc<dyn ServerCertVerifier>;
    let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_client_cert_resolver(folder);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// The folder, and what was last read of it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    provider: Arc<CryptoProvider>,
    read: Mutex<Option<(Stamps, Certificates)>>,
}

/// When each file was written.
type Stamps = [SystemTime; 3];

#[derive(Clone, Debug)]
struct Certificates {
    own: Arc<CertifiedKey>,
    mesh: Arc<WebPkiServerVerifier>,
}

impl Folder {
    /// The certificates, read anew if a file has changed. Ones that cannot be read, for example half written, leave
    /// those before in force.
    fn current(&self) -> Result<Certificates, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.stamps().and_then(|stamps| match &*read {
            Some((seen, _)) if *seen == stamps => Ok(None),
            _ => Ok(Some((stamps, self.load()?))),
        });
        match (fresh, &mut *read) {
            (Ok(Some(fresh)), read) => Ok(read.insert(fresh).1.clone()),
            (_, Some((_, before))) => Ok(before.clone()),
            (Err(error), None) => Err(Error::General(error)),
            (Ok(None), None) => Err(Error::General("--pod-certificates: not read".to_owned())),
        }
    }

    fn stamps(&self) -> Result<Stamps, String> {
        let mut stamps = [SystemTime::UNIX_EPOCH; 3];
        for (stamp, file) in stamps.iter_mut().zip(FILES) {
            let path = self.path.join(file);
            let written = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            *stamp = written.map_err(|error| said(&path, error))?;
        }
        Ok(stamps)
    }

    fn load(&self) -> Result<Certificates, String> {
        let [chain, key, root] = FILES.map(|file| self.path.join(file));
        let pem = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
            let all = CertificateDer::pem_file_iter(path).map_err(|error| said(path, error))?;
            all.collect::<Result<_, _>>().map_err(|error| said(path, error))
        };
        let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| said(&key, error))?;
        let own = CertifiedKey::from_der(pem(&chain)?, private, &self.provider);
        let own = own.map_err(|error| said(&chain, error))?;
        let mut roots = RootCertStore::empty();
        for certificate in pem(&root)? {
            roots.add(certificate).map_err(|error| said(&root, error))?;
        }
        let mesh = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider));
        let mesh = mesh.build().map_err(|error| said(&root, error))?;
        Ok(Certificates { own: Arc::new(own), mesh })
    }
}

fn said(path: &Path, error: impl std::fmt::Display) -> String {
    format!("--pod-certificates: {}: {error}", path.display())
}

impl ResolvesClientCert for Folder {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current().ok().map(|certificates| certificates.own)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Folder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mesh = self.current()?.mesh;
        match mesh.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The chain is verified before the name is.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
