//! Requests: one GET with redirects followed by hand, so that credentials stay with their origin and the headers of
//! every hop can be seen. TLS is rustls with the graviola provider and the system's certificates. Retries and files
//! are not its business.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::Agent;
use ureq::http::HeaderMap;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::config::Config;
use crate::error::HubError;
use crate::link::{Auth, Link, shown};
use crate::name::is_sha256;

const MAX_REDIRECTS: usize = 10;

/// A client; connections are kept alive between requests.
#[derive(Debug)]
pub(crate) struct Http {
    offline: bool,
    proxies: bool,
    connect_timeout: Duration,
    stall_timeout: Duration,
    /// Trusted besides the system's certificates.
    extra_ca: Option<PathBuf>,
    plain: OnceLock<Agent>,
    tls: OnceLock<Agent>,
}

/// What to ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Get<'a> {
    pub(crate) url: &'a str,
    pub(crate) accept: Option<&'a str>,
    pub(crate) auth: Option<&'a Auth>,
    /// First byte wanted and, where there is one, the validator for `If-Range`.
    pub(crate) from: Option<(u64, Option<&'a str>)>,
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Where the last redirect led.
    pub(crate) link: Link,
    pub(crate) headers: HeaderMap,
    pub(crate) body: ureq::Body,
    /// SHA-256 that the first origin announced for a linked file (Hugging Face's `X-Linked-Etag`).
    pub(crate) linked_sha256: Option<String>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads a page of at most `limit` bytes.
    pub(crate) fn text(mut self, limit: u64) -> Result<String, HubError> {
        let url = self.link.shown();
        let bytes = self.body.with_config().limit(limit).read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => HubError::Content {
                what: url.clone(),
                why: format!("the page is larger than {limit} bytes, which no index or API answer should be"),
            },
            other => network(&url, &other),
        })?;
        String::from_utf8(bytes)
            .map_err(|_| HubError::Content { what: url, why: "the page is not UTF-8 text".to_owned() })
    }
}

impl Http {
    pub(crate) fn new(config: &Config, extra_ca: Option<PathBuf>) -> Self {
        Self {
            offline: config.offline,
            proxies: config.proxies,
            connect_timeout: config.connect_timeout,
            stall_timeout: config.stall_timeout,
            extra_ca,
            plain: OnceLock::new(),
            tls: OnceLock::new(),
        }
    }

    /// Asks and follows redirects; any status but a redirect is returned as it is.
    pub(crate) fn get(&self, get: Get<'_>) -> Result<Reply, HubError> {
        if self.offline {
            return Err(HubError::Offline { name: shown(get.url) });
        }
        let malformed = |url: &str, why: &str| HubError::Network {
            url: shown(url),
            why: why.to_owned(),
            transient: false,
        };
        let mut link = Link::parse(get.url).ok_or_else(|| malformed(get.url, "the address is malformed"))?;
        let first = link.origin();
        let mut linked_sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.one(&link, get)?;
            if link.origin() == first {
                let sum = header(response.headers(), "x-linked-etag").map(|etag| etag.trim_matches('"'));
                linked_sha256 =
                    sum.filter(|sum| is_sha256(sum)).map(str::to_ascii_lowercase).or(linked_sha256);
            }
            let status = response.status().as_u16();
            let location = match status {
                301 | 302 | 303 | 307 | 308 => header(response.headers(), "location"),
                _ => None,
            };
            let Some(location) = location else {
                let (parts, body) = response.into_parts();
                return Ok(Reply { status, link, headers: parts.headers, body, linked_sha256 });
            };
            let next = link.join(location).ok_or_else(|| {
                malformed(get.url, "the server redirects to an address that is not http(s)")
            })?;
            if link.scheme == "https" && next.scheme == "http" {
                return Err(malformed(get.url, "the server redirects from https to unencrypted http"));
            }
            link = Link { userinfo: None, ..next };
        }
        Err(malformed(get.url, "the server redirects in circles"))
    }

    fn one(&self, link: &Link, get: Get<'_>) -> Result<ureq::http::Response<ureq::Body>, HubError> {
        let agent = if link.scheme == "https" {
            self.tls_agent()?
        } else {
            self.plain.get_or_init(|| self.agent(None))
        };
        let mut request = agent.get(link.request());
        if let Some(accept) = get.accept {
            request = request.header("Accept", accept);
        }
        if let Some(auth) = get.auth.filter(|auth| auth.origin == link.origin()) {
            request = request.header("Authorization", auth.header.reveal());
        }
        if let Some((from, validator)) = get.from {
            request = request.header("Range", format!("bytes={from}-"));
            if let Some(validator) = validator {
                request = request.header("If-Range", validator);
            }
        }
        request.call().map_err(|error| network(&link.shown(), &error))
    }

    fn agent(&self, tls: Option<TlsConfig>) -> Agent {
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("smallmind/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            .timeout_recv_response(Some(self.stall_timeout))
            .timeout_per_read(Some(self.stall_timeout))
            .timeout_per_write(Some(self.stall_timeout));
        if !self.proxies {
            builder = builder.proxy(None);
        }
        if let Some(tls) = tls {
            builder = builder.tls_config(tls);
        }
        builder.build().new_agent()
    }

    fn tls_agent(&self) -> Result<&Agent, HubError> {
        if let Some(agent) = self.tls.get() {
            return Ok(agent);
        }
        // graviola asserts these; without them HTTPS is refused instead of the program stopping.
        if let Some(missing) = missing_cpu_features() {
            return Err(HubError::Tls {
                why: format!(
                    "this processor lacks {missing}, which the TLS library needs; download the file elsewhere and \
                     name its path"
                ),
            });
        }
        let mut roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect();
        if let Some(path) = &self.extra_ca {
            let pem =
                std::fs::read(path).map_err(|error| HubError::io("read pip's certificates", path, error))?;
            roots.extend(parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            }));
        }
        if roots.is_empty() {
            return Err(HubError::Tls {
                why: "this machine has no CA certificates; install the package ca-certificates or point \
                      SSL_CERT_FILE to a bundle"
                    .to_owned(),
            });
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()))
            .root_certs(RootCerts::new_with_certs(&roots))
            .build();
        Ok(self.tls.get_or_init(|| self.agent(Some(tls))))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The features that graviola needs and this processor does not have.
fn missing_cpu_features() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    let features: &[(&str, bool)] = &[
        ("ADX", is_x86_feature_detected!("adx")),
        ("AES", is_x86_feature_detected!("aes")),
        ("AVX", is_x86_feature_detected!("avx")),
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("BMI1", is_x86_feature_detected!("bmi1")),
        ("PCLMULQDQ", is_x86_feature_detected!("pclmulqdq")),
    ];
    #[cfg(target_arch = "aarch64")]
    let features: &[(&str, bool)] = &[
        ("AES", std::arch::is_aarch64_feature_detected!("aes")),
        ("NEON", std::arch::is_aarch64_feature_detected!("neon")),
        ("PMULL", std::arch::is_aarch64_feature_detected!("pmull")),
        ("SHA2", std::arch::is_aarch64_feature_detected!("sha2")),
    ];
    let missing: Vec<&str> = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// A sentence for a connection that failed or broke.
pub(crate) fn network(url: &str, error: &ureq::Error) -> HubError {
    use std::io::ErrorKind;
    let host = Link::parse(url).map(|link| link.host).unwrap_or_default();
    let (why, transient) = match error {
        ureq::Error::HostNotFound => (
            format!("the host {host} is not known here; check the network, the proxy settings or the name"),
            false,
        ),
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            (format!("{host} does not answer; check the network and HTTPS_PROXY"), false)
        }
        ureq::Error::Timeout(_) => (format!("{host} stopped sending; pull again to continue"), true),
        ureq::Error::Rustls(error) => (
            format!("the secure connection to {host} failed ({error}); check the clock and SSL_CERT_FILE"),
            false,
        ),
        ureq::Error::ConnectProxyFailed(error) => {
            (format!("the proxy refused ({error}); check HTTPS_PROXY"), false)
        }
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => (format!("{host} refuses connections; check the address"), false),
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
                (format!("{host} cannot be reached from here ({error})"), false)
            }
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::TimedOut
            | ErrorKind::WouldBlock => {
                (format!("the connection to {host} broke ({error}); pull again to continue"), true)
            }
            // Among them names that cannot be looked up, which have no kind of their own.
            _ => (
                format!("there is no connection to {host} ({error}); check the network and HTTPS_PROXY"),
                false,
            ),
        },
        ureq::Error::Protocol(error) => (format!("{host} broke off or does not speak HTTP ({error})"), true),
        other => (format!("the request to {host} failed ({other})"), false),
    };
    HubError::Network { url: shown(url), why, transient }
}
