//! The little of URLs that downloads need: parts, relative references (RFC 3986, section 5.2), origins, and an
//! address fit for a message. Opens nothing.

use crate::config::Secret;

/// An `http` or `https` address in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) scheme: String,
    pub(crate) userinfo: Option<String>,
    /// Host and, where written, `:port`; lower case.
    pub(crate) host: String,
    /// Path and query, beginning with `/`.
    pub(crate) path: String,
    pub(crate) fragment: Option<String>,
}

impl Link {
    /// Parses an absolute address; `None` when it is not `http(s)://host…` or holds blanks or control characters.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.chars().any(|c| c.is_control() || c == ' ' || c == '\\') {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return None;
        }
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment.to_owned())),
            None => (rest, None),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo.to_owned()), host),
            None => (None, authority),
        };
        if host.is_empty() || host.starts_with(':') {
            return None;
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { scheme, userinfo, host: host.to_ascii_lowercase(), path, fragment })
    }

    /// Scheme, host and port, the default port written out: what credentials are bound to.
    pub(crate) fn origin(&self) -> String {
        let has_port =
            self.host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        match (has_port, self.scheme.as_str()) {
            (true, _) => format!("{}://{}", self.scheme, self.host),
            (false, "http") => format!("http://{}:80", self.host),
            (false, _) => format!("{}://{}:443", self.scheme, self.host),
        }
    }

    /// Whether the host is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let name = match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => &self.host,
        };
        name == "localhost"
            || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The address to ask for: no credentials, no fragment.
    pub(crate) fn request(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host, self.path)
    }

    /// The address for a message: additionally without the query, which may hold a signature.
    pub(crate) fn shown(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", self.scheme, self.host)
    }

    /// The last component of the path, percent-decoded.
    pub(crate) fn last_component(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        percent_decode(path.rsplit('/').next().unwrap_or_default())
    }

    /// What `reference`, found in the page at `self`, points to.
    pub(crate) fn join(&self, reference: &str) -> Option<Self> {
        if reference.contains("://") && !reference.starts_with(['/', '.', '?']) {
            return Self::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme));
        }
        let base = self.path.split('?').next().unwrap_or("/");
        let path = if reference.starts_with('/') {
            reference.to_owned()
        } else if reference.starts_with('?') {
            format!("{base}{reference}")
        } else {
            format!("{}/{reference}", base.rsplit_once('/').map_or("", |(folder, _)| folder))
        };
        Self::parse(&format!("{}://{}{}", self.scheme, self.host, without_dots(&path)))
    }
}

/// Removes `.` and `..` components; the query and the fragment stay as they are.
fn without_dots(path: &str) -> String {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (path, tail) = path.split_at(end);
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for component in path.split('/').skip(1) {
        folder = matches!(component, "." | "..");
        match component {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    format!("/{}{}{tail}", kept.join("/"), if folder && !kept.is_empty() { "/" } else { "" })
}

/// An address for a message, whatever it is.
pub(crate) fn shown(url: &str) -> String {
    Link::parse(url).map_or_else(|| "the address".to_owned(), |link| link.shown())
}

/// Credentials and the only origin that may see them.
#[derive(Debug, Clone)]
pub(crate) struct Auth {
    pub(crate) origin: String,
    /// The whole value of the `Authorization` header.
    pub(crate) header: Secret,
}

impl Auth {
    /// A bearer token for the origin of `link`; none over an unencrypted connection to another machine.
    pub(crate) fn bearer(link: &Link, token: &Secret) -> Option<Self> {
        let secure = link.scheme == "https" || link.is_loopback();
        secure.then(|| Self {
            origin: link.origin(),
            header: Secret::new(format!("Bearer {}", token.reveal())),
        })
    }

    /// The user and password written in an address, as HTTP basic authentication (RFC 7617).
    pub(crate) fn basic(link: &Link) -> Option<Self> {
        let plain = percent_decode(link.userinfo.as_deref()?);
        let plain = if plain.contains(':') { plain } else { format!("{plain}:") };
        let header = Secret::new(format!("Basic {}", base64(plain.as_bytes())));
        Some(Self { origin: link.origin(), header })
    }
}

/// Decodes `%41`; what is not valid stays as written, invalid UTF-8 is replaced.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).filter(|_| bytes[i] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes a path so that it can stand in an address; `/` stays.
pub(crate) fn percent_encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0u8; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for i in 0..4 {
            let index = (bits >> (18 - 6 * i)) & 63;
            let letter = if i <= chunk.len() { ALPHABET[index as usize] } else { b'=' };
            out.push(char::from(letter));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_as_browsers_do() {
        let base = Link::parse("https://Host.example/simple/pkg/?x=1").unwrap();
        for (reference, wanted) in [
            ("https://other/a#sha256=1", "https://other/a"),
            ("//other/a", "https://other/a"),
            ("/files/a.whl", "https://host.example/files/a.whl"),
            ("../../files/a.whl", "https://host.example/files/a.whl"),
            ("../../../../a", "https://host.example/a"),
            ("a.whl?b=../c", "https://host.example/simple/pkg/a.whl?b=../c"),
            ("./", "https://host.example/simple/pkg/"),
        ] {
            assert_eq!(base.join(reference).unwrap().request(), wanted, "{reference}");
        }
        assert_eq!(base.join("file:///etc/passwd"), None);
        assert_eq!(base.join("ftp://other/a"), None);
    }

    #[test]
    fn messages_show_no_password_and_no_query() {
        let link = Link::parse("https://user:hunter2@host/a?signature=secret#sha256=0").unwrap();
        assert_eq!(link.shown(), "https://host/a");
        assert_eq!(link.request(), "https://host/a?signature=secret");
        assert!(!format!("{:?}", Auth::basic(&link)).contains("aHVudGVyMg"));
        assert_eq!(Auth::basic(&link).unwrap().header.reveal(), "Basic dXNlcjpodW50ZXIy");
    }

    #[test]
    fn origins_tell_ports_and_schemes_apart() {
        let origin = |url| Link::parse(url).unwrap().origin();
        assert_eq!(origin("https://host/a"), origin("https://HOST:443/b"));
        assert_ne!(origin("https://host/a"), origin("https://host:444/a"));
        assert_ne!(origin("https://host/a"), origin("http://host/a"));
        assert!(Link::parse("http://127.0.0.1:80/").unwrap().is_loopback());
        assert!(Link::parse("http://[::1]:80/").unwrap().is_loopback());
        assert!(!Link::parse("http://localhost.evil/").unwrap().is_loopback());
    }

    #[test]
    fn escapes_survive_the_round_trip() {
        assert_eq!(percent_decode(&percent_encode_path("a b/ü%.gguf")), "a b/ü%.gguf");
        assert_eq!(percent_decode("100%"), "100%");
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
