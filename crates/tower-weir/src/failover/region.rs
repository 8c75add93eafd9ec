use std::{error::Error, fmt, sync::Arc};

use super::{Origin, board::MAX_REGIONS};

type Shut = Arc<dyn Fn() -> bool + Send + Sync>;

/// One of the upstreams that a [`Failover`](super::Failover) chooses from: a
/// name, where it is, and the service that goes there, with a stack of its own.
pub struct Region<S> {
    pub(super) service: S,
    pub(super) place: Place,
}

/// What is known of a region apart from its service.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) name: Arc<str>,
    pub(super) origin: Option<Origin>,
    pub(super) shut: Option<Shut>,
}

impl<S> Region<S> {
    /// A region whose requests keep their URI: for a tonic `Channel`, which has
    /// its own, and for services that know where to go.
    pub fn new(name: impl Into<Arc<str>>, service: S) -> Self {
        Self {
            service,
            place: Place {
                name: name.into(),
                origin: None,
                shut: None,
            },
        }
    }

    /// Where the region's requests are sent, whatever their URI says.
    #[must_use]
    pub fn at(mut self, origin: Origin) -> Self {
        self.place.origin = Some(origin);
        self
    }

    /// Asked before a request goes to the region while it is up: whether its
    /// circuit is open, which takes it down without a request that is refused.
    /// It runs on the caller's task, so it must be quick.
    ///
    /// Not needed where the region's stack refuses such a request with a
    /// [`CircuitOpen`](crate::error::CircuitOpen): that is understood, and the
    /// request, which was not sent, goes on at once. It is for circuits that are
    /// somewhere else, or shared with others:
    ///
    /// ```
    /// # #[cfg(feature = "weir")] {
    /// use std::sync::{Arc, atomic::{AtomicBool, Ordering::Relaxed}};
    /// use tower_weir::{Weir, circuit_breaker::State, failover::Region, observe::Event};
    ///
    /// let open = Arc::new(AtomicBool::new(false));
    /// let told = open.clone();
    /// let shared = Weir::http().observe(move |_, event| {
    ///     if let Event::Circuit(change) = event {
    ///         told.store(change.to == State::Open, Relaxed);
    ///     }
    /// });
    /// # let service = tower::Layer::layer(&shared, ());
    /// let region = Region::new("eu", service).shut_when(move || open.load(Relaxed));
    /// # let _ = region;
    /// # }
    /// ```
    #[must_use]
    pub fn shut_when(mut self, shut: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.place.shut = Some(Arc::new(shut));
        self
    }
}

impl<S: fmt::Debug> fmt::Debug for Region<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("name", &self.place.name)
            .field("origin", &self.place.origin)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Why no [`Failover`](super::Failover) can be made of some regions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidRegions {
    /// There are none.
    None,
    /// There are more than 64.
    TooMany(usize),
    /// Two have this name.
    SameName(Arc<str>),
}

impl fmt::Display for InvalidRegions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no region to go to"),
            Self::TooMany(count) => write!(f, "{count} regions: at most {MAX_REGIONS} are watched"),
            Self::SameName(name) => write!(f, "two regions are named {name}"),
        }
    }
}

impl Error for InvalidRegions {}

/// Takes services and places apart.
pub(super) fn checked<S>(
    regions: impl IntoIterator<Item = Region<S>>,
) -> Result<(Vec<S>, Vec<Place>), InvalidRegions> {
    let (services, places): (Vec<S>, Vec<Place>) = regions
        .into_iter()
        .map(|region| (region.service, region.place))
        .unzip();
    if places.is_empty() {
        return Err(InvalidRegions::None);
    }
    if places.len() > MAX_REGIONS {
        return Err(InvalidRegions::TooMany(places.len()));
    }
    for (index, place) in places.iter().enumerate() {
        if places[..index].iter().any(|other| other.name == place.name) {
            return Err(InvalidRegions::SameName(place.name.clone()));
        }
    }
    Ok((services, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_cannot_be_told_apart_are_refused() {
        let named = |names: &[&str]| {
            let regions: Vec<_> = names.iter().map(|name| Region::new(*name, ())).collect();
            checked(regions).map(|(services, _)| services.len())
        };
        assert_eq!(named(&["a", "b"]), Ok(2));
        assert_eq!(named(&[]), Err(InvalidRegions::None));
        let twice = InvalidRegions::SameName("b".into());
        assert_eq!(named(&["a", "b", "b"]), Err(twice));
        let many = (0..65).map(|n| Region::new(n.to_string(), ()));
        assert_eq!(checked(many).err(), Some(InvalidRegions::TooMany(65)));
    }
}
