//! Pods behind STRICT mutual TLS are scraped with workload certificates, as Istio's agent writes them.

mod common;

use common::{LONG, page};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use warmpath_sidecar::pods::client::Client;

/// A mesh: what signs the certificates of its workloads.
struct Mesh(CertifiedIssuer<'static, KeyPair>);

impl Mesh {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::OrganizationName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key of a workload, which has a SPIFFE name and no address.
    fn workload(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://cluster.local/ns/llm-d/sa/{name}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes what the agent in a gateway's pod writes.
    fn write(&self, folder: &Path) {
        let (certificate, key) = self.workload("llm-gateway-istio");
        std::fs::write(folder.join("key.pem"), key).unwrap();
        std::fs::write(folder.join("root-cert.pem"), self.0.pem()).unwrap();
        std::fs::write(folder.join("cert-chain.pem"), certificate).unwrap();
    }

    /// A pod that lets only workloads of this mesh in, and answers each connection once.
    async fn pod(&self) -> String {
        let (certificate, key) = self.workload("vllm");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(clients.build().unwrap()).with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        );
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = vec![0; 4096];
                    let _ = stream.read(&mut request).await;
                    let body = page(7, 3);
                    let head =
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        address
    }
}

fn client(folder: &Path) -> Client {
    Client::new(LONG, None, Some(folder)).unwrap()
}

#[tokio::test]
async fn a_pod_of_the_mesh_is_read() {
    let (mesh, folder) = (Mesh::new("ours"), tempfile::tempdir().unwrap());
    mesh.write(folder.path());
    let (status, body) = client(folder.path()).get(&mesh.pod().await, "/metrics", false).await.unwrap();
    assert_eq!(status, 200);
    assert!(std::str::from_utf8(&body).unwrap().contains("vllm:num_requests_running"));
}

#[tokio::test]
async fn without_certificates_such_a_pod_refuses() {
    let pod = Mesh::new("ours").pod().await;
    Client::new(LONG, None, None).unwrap().get(&pod, "/metrics", false).await.unwrap_err();
}

#[tokio::test]
async fn a_pod_of_another_mesh_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    Mesh::new("ours").write(folder.path());
    let other = Mesh::new("theirs").pod().await;
    let failure = client(folder.path()).get(&other, "/metrics", false).await.unwrap_err();
    assert!(failure.error.contains("certificate"), "{}", failure.error);
}

#[tokio::test]
async fn certificates_may_come_late_and_change() {
    let (first, second, folder) = (Mesh::new("first"), Mesh::new("second"), tempfile::tempdir().unwrap());
    let client = client(folder.path());
    let (pod, after) = (first.pod().await, second.pod().await);
    let failure = client.get(&pod, "/metrics", false).await.unwrap_err();
    assert!(failure.error.contains("--pod-certificates") && failure.error.contains("cert-chain.pem"), "{failure:?}");
    first.write(folder.path());
    client.get(&pod, "/metrics", false).await.unwrap();
    // Half written ones leave those before in force.
    std::fs::write(folder.path().join("key.pem"), "-----BEGIN").unwrap();
    client.get(&pod, "/metrics", false).await.unwrap();
    second.write(folder.path());
    let began = Instant::now();
    while let Err(failure) = client.get(&after, "/metrics", false).await {
        assert!(began.elapsed() < LONG, "{failure:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
