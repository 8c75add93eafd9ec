use std::{error::Error, fmt};

use http::{Method, Request};

use super::Class;

/// Which class a request is of, by its method and path: the first rule that
/// matches decides.
///
/// A pattern is a path whose segments are literal, `{name}` for any one segment
/// that is not empty, or at the end `{*name}` for any rest, nothing included.
/// Paths are compared as they were sent, without decoding and with case; but axum's
/// `nest` takes its prefix off for what is layered within. gRPC calls are `POST
/// /package.Service/Method`, health checks too, which are to be exempt:
/// `/grpc.health.v1.Health/{method}`.
///
/// What no rule matches goes by its method: GET, HEAD, OPTIONS and TRACE are
/// [exempt](Class::EXEMPT), DELETE is a [record](Class::RECORD) that
/// [frees storage](Class::freeing), everything else a record.
///
/// ```
/// use http::Method;
/// use tower_weir::server::{Class, ClassTable};
///
/// let table = ClassTable::new()
///     .on(Method::POST, "/indexes/{index}/query", Class::EXEMPT)?
///     .on(Method::POST, "/indexes/{index}/clear", Class::STRUCTURAL.freeing())?
///     .on(Method::PUT, "/indexes/{index}/settings", Class::STRUCTURAL)?
///     .on(None, "/admin/{*rest}", Class::EXEMPT)?;
///
/// assert_eq!(table.class(&Method::POST, "/indexes/books/query"), Class::EXEMPT);
/// assert_eq!(table.class(&Method::POST, "/indexes/books"), Class::RECORD);
/// # Ok::<(), tower_weir::server::InvalidPattern>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClassTable {
    rules: Vec<Rule>,
    otherwise: Option<Class>,
}

#[derive(Clone, Debug)]
struct Rule {
    method: Option<Method>,
    segments: Vec<Segment>,
    class: Class,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    One,
    Rest,
}

/// A pattern that means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPattern {
    pattern: Box<str>,
    why: &'static str,
}

impl InvalidPattern {
    /// The pattern as it was given.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the path pattern {:?} {}", self.pattern, self.why)
    }
}

impl Error for InvalidPattern {}

impl ClassTable {
    /// A table without rules: all requests go by their method.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule, after those there are. `None` is any method.
    ///
    /// # Errors
    /// When the pattern does not begin with a slash, has braces within a
    /// segment, or a `{*rest}` before its end.
    pub fn on(
        mut self,
        method: impl Into<Option<Method>>,
        pattern: &str,
        class: Class,
    ) -> Result<Self, InvalidPattern> {
        let segments = parse(pattern).map_err(|why| InvalidPattern {
            pattern: pattern.into(),
            why,
        })?;
        self.rules.push(Rule {
            method: method.into(),
            segments,
            class,
        });
        Ok(self)
    }

    /// The class of what no rule matches, instead of the one by its method.
    #[must_use]
    pub fn otherwise(mut self, class: Class) -> Self {
        self.otherwise = Some(class);
        self
    }

    /// Whether it has nothing to say of its own.
    pub(super) fn is_by_method(&self) -> bool {
        self.rules.is_empty() && self.otherwise.is_none()
    }

    /// The same as [`class`](Self::class), of a request whose path is looked at only if
    /// there are rules.
    #[inline]
    pub(super) fn class_of<B>(&self, request: &Request<B>) -> Class {
        if self.rules.is_empty() {
            return self
                .otherwise
                .unwrap_or_else(|| by_method(request.method()));
        }
        self.class(request.method(), request.uri().path())
    }

    /// The class of a request.
    pub fn class(&self, method: &Method, path: &str) -> Class {
        let rule = self.rules.iter().find(|rule| {
            rule.method.as_ref().is_none_or(|own| own == method) && matches(&rule.segments, path)
        });
        rule.map(|rule| rule.class)
            .or(self.otherwise)
            .unwrap_or_else(|| by_method(method))
    }
}

/// The class of a request that no table says anything of.
#[inline]
pub(super) fn by_method(method: &Method) -> Class {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => Class::EXEMPT,
        Method::DELETE => Class::RECORD.freeing(),
        _ => Class::RECORD,
    }
}

fn parse(pattern: &str) -> Result<Vec<Segment>, &'static str> {
    let path = pattern
        .strip_prefix('/')
        .ok_or("does not begin with a slash")?;
    let segments = path.split('/').map(segment);
    let segments = segments.collect::<Result<Vec<_>, _>>()?;
    let rest = segments.iter().position(|it| *it == Segment::Rest);
    match rest {
        Some(at) if at + 1 < segments.len() => {
            Err("goes on after {*...}, which takes all the rest")
        }
        _ => Ok(segments),
    }
}

fn segment(text: &str) -> Result<Segment, &'static str> {
    let inside = text.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
    match inside {
        Some(name) if name.contains(['{', '}']) => Err("has braces within braces"),
        Some(name) if name.starts_with('*') => Ok(Segment::Rest),
        Some(_) => Ok(Segment::One),
        None if text.contains(['{', '}']) => Err("has braces that are not a whole segment"),
        None => Ok(Segment::Literal(text.into())),
    }
}

fn matches(pattern: &[Segment], path: &str) -> bool {
    let path = path.as_bytes();
    let mut rest = Some(path.strip_prefix(b"/").unwrap_or(path));
    for wanted in pattern {
        let Some(left) = rest else {
            return *wanted == Segment::Rest;
        };
        let end = match wanted {
            Segment::Rest => return true,
            Segment::Literal(literal) if left.starts_with(literal.as_bytes()) => literal.len(),
            Segment::One if left.first().is_some_and(|byte| *byte != b'/') => {
                let slash = left.iter().position(|byte| *byte == b'/');
                slash.unwrap_or(left.len())
            }
            _ => return false,
        };
        rest = match left[end..].split_first() {
            None => None,
            Some((b'/', more)) => Some(more),
            Some(_) => return false,
        };
    }
    rest.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Class = Class::new("own");

    fn takes(pattern: &str, path: &str) -> bool {
        let table = ClassTable::new().on(None, pattern, OWN).unwrap();
        table.class(&Method::POST, path) == OWN
    }

    #[test]
    fn patterns_match_by_segments() {
        for (pattern, path, expected) in [
            ("/", "/", true),
            ("/", "", true),
            ("/", "/a", false),
            ("/a/b", "/a/b", true),
            ("/a/b", "/a", false),
            ("/a/b", "/a/b/", false),
            ("/a/b", "/A/b", false),
            ("/a/{x}", "/a/1", true),
            ("/a/{x}", "/a/", false),
            ("/a/{x}", "/a/1/2", false),
            ("/a/{x}/c", "/a/1/c", true),
            ("/a/{*x}", "/a", true),
            ("/a/{*x}", "/a/1/2", true),
            ("/a/{*x}", "/b", false),
            ("/{*x}", "/anything/at/all", true),
            ("/p.Service/Upsert", "/p.Service/Upsert", true),
        ] {
            assert_eq!(takes(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_first_rule_decides_and_then_the_method() {
        let table = ClassTable::new()
            .on(Method::DELETE, "/a", Class::STRUCTURAL)
            .unwrap()
            .on(None, "/a", OWN)
            .unwrap();
        assert_eq!(table.class(&Method::DELETE, "/a"), Class::STRUCTURAL);
        assert_eq!(table.class(&Method::GET, "/a"), OWN);
        for (method, class) in [
            (Method::GET, Class::EXEMPT),
            (Method::HEAD, Class::EXEMPT),
            (Method::OPTIONS, Class::EXEMPT),
            (Method::TRACE, Class::EXEMPT),
            (Method::DELETE, Class::RECORD.freeing()),
            (Method::PUT, Class::RECORD),
            (Method::PATCH, Class::RECORD),
        ] {
            assert_eq!(table.class(&method, "/b"), class, "{method}");
        }
        let table = table.otherwise(Class::EXEMPT);
        assert_eq!(table.class(&Method::PUT, "/b"), Class::EXEMPT);
    }

    #[test]
    fn a_pattern_that_means_nothing_is_refused() {
        for pattern in ["", "a", "/{*x}/a", "/a{x}", "/{x}a", "/{{x}}", "/a}"] {
            let error = ClassTable::new().on(None, pattern, OWN).unwrap_err();
            assert_eq!(error.pattern(), pattern);
        }
    }
}
