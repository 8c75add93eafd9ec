use std::{fmt, str::FromStr, time::Duration};

use http::{
    Uri,
    uri::{PathAndQuery, Scheme},
};
use tokio::{net::TcpStream, time::sleep};
use tower_weir::BoxError;

/// How long the first connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Where the batches go, and by which protocol. The URI is an `http` one either
/// way, which is what tonic wants too.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Endpoint {
    Http(Uri),
    Grpc(Uri),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        let scheme = uri.scheme_str().unwrap_or_default().to_owned();
        if uri.host().is_none_or(str::is_empty) {
            return Err("no host: a URL looks like http://host:port/path".to_owned());
        }
        let mut parts = uri.into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts
            .path_and_query
            .get_or_insert(PathAndQuery::from_static("/"));
        let uri = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        match scheme.as_str() {
            "http" => Ok(Self::Http(uri)),
            "grpc" if uri.path() == "/" => Ok(Self::Grpc(uri)),
            "grpc" => Err("a grpc URL has no path".to_owned()),
            "https" => Err("this example speaks no TLS: use http or grpc".to_owned()),
            _ => Err("neither http nor grpc".to_owned()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, uri) = match self {
            Self::Http(uri) => ("http", uri),
            Self::Grpc(uri) => ("grpc", uri),
        };
        let host = uri.authority().map_or("", |host| host.as_str());
        write!(f, "{scheme}://{host}{}", uri.path())?;
        uri.query().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

impl Endpoint {
    /// The same place by gRPC.
    pub(crate) fn over_grpc(self) -> Self {
        let (Self::Http(uri) | Self::Grpc(uri)) = self;
        Self::Grpc(uri)
    }

    /// Whether anything listens there at all. An upstream that goes away during
    /// the run is waited for; a mistyped name had better be an error at once.
    pub(crate) async fn check(&self) -> Result<(), BoxError> {
        let (Self::Http(uri) | Self::Grpc(uri)) = self;
        let host = uri.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let connect = TcpStream::connect((host, uri.port_u16().unwrap_or(80)));
        let connected = tokio::select! {
            connected = connect => connected.map(drop).map_err(|error| error.to_string()),
            () = sleep(CONNECT_TIME) => Err(format!("no connection in {CONNECT_TIME:?}")),
        };
        connected.map_err(|why| format!("cannot reach {uri}: {why}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_which_protocol() {
        let parse = |text: &str| text.parse::<Endpoint>();
        let uri = |text: &'static str| Uri::from_static(text);
        assert_eq!(
            parse("http://a:1/v?x=y"),
            Ok(Endpoint::Http(uri("http://a:1/v?x=y")))
        );
        assert_eq!(parse("grpc://a:1"), Ok(Endpoint::Grpc(uri("http://a:1/"))));
        let http = parse("http://[::1]:1").unwrap();
        assert_eq!(http.to_string(), "http://[::1]:1/");
        assert_eq!(http.over_grpc(), Endpoint::Grpc(uri("http://[::1]:1/")));
        for url in ["http://a:1/v?x=y", "grpc://a:1/"] {
            assert_eq!(parse(url).unwrap().to_string(), url);
        }
        for (text, why) in [
            ("a", "neither"),
            ("/v", "no host"),
            ("http://:1", "no host"),
            ("index:80", "neither"),
            ("https://a", "no TLS"),
            ("ftp://a", "neither"),
            ("grpc://a/v", "no path"),
            ("http://a b", "invalid"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn nobody_listens_there() {
        // bound and not listening, so that no other program can
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let endpoint = format!("http://{}", socket.local_addr().unwrap());
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let error = endpoint.check().await.unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
    }
}
