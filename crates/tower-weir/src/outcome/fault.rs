use std::fmt;

/// What kind of error came instead of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// No connection could be made: refused, DNS, connect timeout.
    Connect,
    /// TLS failed: a certificate, or a scheme the connector does not speak.
    Tls,
    /// The connection closed before the request was written to it.
    NotSent,
    /// The peer reset the stream with REFUSED_STREAM (RFC 9113 8.7).
    RefusedStream,
    /// The peer's GOAWAY names an earlier last stream (RFC 9113 6.8).
    GoAway,
    /// The peer reset the stream with ENHANCE_YOUR_CALM (RFC 9113 7).
    EnhanceYourCalm,
    /// The peer reset the stream for another reason.
    StreamReset,
    /// The connection closed before the response.
    Closed,
    /// The connection was reset, or broke, under the request.
    Reset,
    /// The connection's keep-alive timed out.
    KeepAlive,
    /// The attempt's time was up before the response's headers.
    AttemptTimeout,
    /// The request's deadline passed during the attempt.
    Deadline,
    /// The peer sent something that is not HTTP.
    Parse,
    /// The request's own body, or the caller, failed.
    Request,
    /// One of this crate's layers refused the request.
    Local,
    /// One of this crate's layers is being drained.
    ShuttingDown,
    /// So it is, and the upstream may have acted on the request before: an
    /// attempt was cut short, or there would have been another.
    Cut,
    /// Anything else.
    Other,
}

impl Fault {
    /// Whether nothing of the request can have reached whoever serves it: it was
    /// not sent, or its stream was refused before it was handed on.
    #[cfg(feature = "retry")]
    pub(crate) const fn is_unseen(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::Tls
                | Self::NotSent
                | Self::RefusedStream
                | Self::GoAway
                | Self::Local
                | Self::ShuttingDown
        )
    }

    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::NotSent => "not_sent",
            Self::RefusedStream => "refused_stream",
            Self::GoAway => "go_away",
            Self::EnhanceYourCalm => "enhance_your_calm",
            Self::StreamReset => "stream_reset",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::KeepAlive => "keep_alive_timeout",
            Self::AttemptTimeout => "attempt_timeout",
            Self::Deadline => "deadline",
            Self::Parse => "parse",
            Self::Request => "request",
            Self::Local => "local",
            Self::ShuttingDown => "shutting_down",
            Self::Cut => "cut",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
