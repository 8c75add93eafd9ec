use std::{error::Error, fmt};

use http::{
    HeaderValue, Method, Uri, header,
    request::Parts,
    uri::{Authority, InvalidUri, PathAndQuery, Scheme},
};

/// Where a region is: scheme, authority and, if need be, a path that goes before
/// every request's own.
///
/// A request that goes to the region gets its URI changed to it, and its `Host`
/// header, if it has one. A CONNECT request keeps its path, and one whose target
/// is `*` too.
///
/// ```
/// use tower_weir::failover::Origin;
///
/// let origin = Origin::new("https://eu.index.internal/v2")?;
/// assert_eq!(origin.to_string(), "https://eu.index.internal/v2");
/// assert!(Origin::new("/only/a/path").is_err());
/// # Ok::<(), tower_weir::failover::InvalidOrigin>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    /// Without a slash at its end; empty for most.
    prefix: String,
}

/// Why a URI is not an [`Origin`].
#[derive(Debug)]
#[non_exhaustive]
pub enum InvalidOrigin {
    /// It is not a URI at all.
    Uri(InvalidUri),
    /// It has no scheme.
    NoScheme,
    /// It names no host.
    NoHost,
    /// It has a user's name or password, which is no part of a place.
    UserInfo,
    /// It has a query.
    Query,
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a region's origin: ")?;
        match self {
            Self::Uri(error) => error.fmt(f),
            Self::NoScheme => f.write_str("no scheme"),
            Self::NoHost => f.write_str("no host"),
            Self::UserInfo => f.write_str("a user's name"),
            Self::Query => f.write_str("a query"),
        }
    }
}

impl Error for InvalidOrigin {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Uri(error) => Some(error),
            _ => None,
        }
    }
}

impl Origin {
    /// Reads `scheme://host[:port][/path]`.
    ///
    /// # Errors
    ///
    /// See [`InvalidOrigin`].
    pub fn new(uri: &str) -> Result<Self, InvalidOrigin> {
        uri.parse().map_err(InvalidOrigin::Uri).and_then(Self::of)
    }

    /// The same of a URI that was parsed before.
    ///
    /// # Errors
    ///
    /// See [`InvalidOrigin`].
    pub fn of(uri: Uri) -> Result<Self, InvalidOrigin> {
        let parts = uri.into_parts();
        let scheme = parts.scheme.ok_or(InvalidOrigin::NoScheme)?;
        let authority = parts.authority.ok_or(InvalidOrigin::NoHost)?;
        if authority.host().is_empty() {
            return Err(InvalidOrigin::NoHost);
        }
        if authority.as_str().contains('@') {
            return Err(InvalidOrigin::UserInfo);
        }
        let path = parts.path_and_query.as_ref();
        if path.is_some_and(|path| path.query().is_some()) {
            return Err(InvalidOrigin::Query);
        }
        let path = path.map_or("", PathAndQuery::path);
        let prefix = path.trim_end_matches('/').to_owned();
        // RFC 9110 7.2: the port is left out where it is the scheme's own.
        let usual = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let plain = authority.port_u16().is_none_or(|port| Some(port) == usual);
        let host = if plain {
            authority.host()
        } else {
            authority.as_str()
        };
        let host = HeaderValue::from_str(host).map_err(|_| InvalidOrigin::NoHost)?;
        Ok(Self {
            scheme,
            authority,
            host,
            prefix,
        })
    }

    /// Sends a request there.
    pub(super) fn apply(&self, head: &mut Parts) -> Result<(), http::Error> {
        let path = head.uri.path_and_query();
        let path = match path.map(PathAndQuery::as_str) {
            _ if head.method == Method::CONNECT => None,
            path if self.prefix.is_empty() || path == Some("*") => {
                Some(path.unwrap_or("/").to_owned())
            }
            // An absolute URI without a path still has one: the root.
            path => Some(format!("{}{}", self.prefix, path.unwrap_or("/"))),
        };
        let uri = Uri::builder().authority(self.authority.clone());
        head.uri = match path {
            Some(path) => uri.scheme(self.scheme.clone()).path_and_query(path),
            None => uri,
        }
        .build()?;
        if head.headers.contains_key(header::HOST) {
            head.headers.insert(header::HOST, self.host.clone());
        }
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn sent(origin: &str, method: &str, uri: &str) -> Result<String, http::Error> {
        let request = Request::builder().method(method).uri(uri);
        let mut head = request.body(()).unwrap().into_parts().0;
        Origin::new(origin).unwrap().apply(&mut head)?;
        Ok(head.uri.to_string())
    }

    #[test]
    fn a_request_keeps_its_path_and_query_and_gets_the_rest() {
        for (origin, uri, expected) in [
            (
                "https://eu.test",
                "http://a.test:8080/x/y?z=1",
                "https://eu.test/x/y?z=1",
            ),
            ("http://eu.test:81/", "/x?y", "http://eu.test:81/x?y"),
            (
                "http://eu.test/v2/",
                "http://a.test/x?y",
                "http://eu.test/v2/x?y",
            ),
            ("http://eu.test/v2", "http://a.test", "http://eu.test/v2/"),
            ("http://[::1]:81/v2", "/", "http://[::1]:81/v2/"),
        ] {
            assert_eq!(sent(origin, "GET", uri).unwrap(), expected);
        }
        assert_eq!(
            sent("http://eu.test/v2", "OPTIONS", "*").unwrap(),
            "http://eu.test*",
            "a client writes it as *"
        );
        let tunnel = sent("http://eu.test/v2", "CONNECT", "a.test:443").unwrap();
        assert_eq!(tunnel, "eu.test");
    }

    #[test]
    fn the_host_header_follows_where_there_is_one() {
        for (origin, expected) in [
            ("https://eu.test", "eu.test"),
            ("https://eu.test:443", "eu.test"),
            ("http://eu.test:443", "eu.test:443"),
            ("http://[::1]:81", "[::1]:81"),
        ] {
            let mut head = Request::get("/x")
                .header("host", "a.test")
                .body(())
                .unwrap();
            let mut bare = Request::new(()).into_parts().0;
            let origin = Origin::new(origin).unwrap();
            let (mut parts, ()) = std::mem::take(&mut head).into_parts();
            origin.apply(&mut parts).unwrap();
            assert_eq!(parts.headers["host"], expected);
            origin.apply(&mut bare).unwrap();
            assert!(bare.headers.is_empty());
        }
    }

    #[test]
    fn what_names_no_place_is_refused() {
        let error = |uri| Origin::new(uri).unwrap_err();
        assert!(matches!(error("http://a b"), InvalidOrigin::Uri(_)));
        assert!(matches!(error("/v2"), InvalidOrigin::NoScheme));
        assert!(matches!(error("eu.test"), InvalidOrigin::NoScheme));
        assert!(matches!(
            error("http://me@eu.test"),
            InvalidOrigin::UserInfo
        ));
        assert!(matches!(error("http://eu.test/?a"), InvalidOrigin::Query));
        assert!(matches!(error("http://:80"), InvalidOrigin::NoHost));
    }
}
