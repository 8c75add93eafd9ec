//! What a layer keeps for each host.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, Uri, header, uri::Authority};
use tokio::time::Instant;

/// How many hosts a layer remembers by default.
pub(crate) const MAX_HOSTS: usize = 256;

/// A request's host: the authority of its URI without user and password, in
/// lower case, or its `Host` header. One that is empty names none (RFC 9110 7.2).
pub(crate) fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
    let authority = uri.authority().map(Authority::as_str);
    let authority = authority.or_else(|| headers.get(header::HOST)?.to_str().ok())?;
    if authority.is_empty() || authority.ends_with('@') {
        return None;
    }
    // To the end, whatever it finds: that goes many bytes at a time.
    let plain = |all: bool, byte: u8| all & (byte != b'@') & !byte.is_ascii_uppercase();
    if authority.bytes().fold(true, plain) {
        return Some(Cow::Borrowed(authority));
    }
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    Some(if host.bytes().fold(true, plain) {
        Cow::Borrowed(host)
    } else {
        Cow::Owned(host.to_ascii_lowercase())
    })
}

/// FNV-1a, stable across runs and platforms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed ^ 0xcbf2_9ce4_8422_2325)
    }
}

impl Default for Fnv {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Eight bytes at a time, for names of some length. It begins with a number that
/// nobody else knows: a server's keys may be its clients' choice, and names that
/// collide from a known beginning are found in a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words(u64);

/// Where the names of one map begin.
#[derive(Clone, Copy, Debug)]
struct Beginning(u64);

impl Default for Beginning {
    fn default() -> Self {
        // The map's order shows nowhere: a run is the same with another one.
        Self(RandomState::new().hash_one(()))
    }
}

impl BuildHasher for Beginning {
    type Hasher = Words;

    #[inline]
    fn build_hasher(&self) -> Words {
        Words(self.0)
    }
}

impl Words {
    #[inline]
    fn add(&mut self, word: u64) {
        // The golden ratio's bits: odd, and without a pattern.
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Words {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut whole = [0; 8];
            whole.copy_from_slice(word);
            self.add(u64::from_le_bytes(whole));
        }
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        // With the length, or a name would be that of one with a zero behind it.
        self.add(u64::from_le_bytes(rest) ^ (bytes.len() as u64) << 56);
    }

    /// What ends a string: its length is hashed already.
    #[inline]
    fn write_u8(&mut self, _: u8) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// One value for each host, and one for the requests that name none.
///
/// Looking a known host up takes a lock that only readers share, and writes
/// nothing unless there has been a new host since the last time. A new one may
/// push out one that was not asked for since the most others were new, and of those
/// the one whose value was used the longest ago, where values know; one that is in
/// use never leaves, so that there can be more than `max` while more hosts than that
/// have calls in flight.
pub(crate) struct Hosts<T: ?Sized> {
    max: AtomicUsize,
    /// Counts the new hosts: the time by which hosts are old.
    arrivals: AtomicU64,
    nameless: OnceLock<Arc<T>>,
    named: RwLock<Named<T>>,
    last_use: LastUse<T>,
}

/// When a value that nobody else holds was last used, if it knows.
type LastUse<T> = fn(&T) -> Option<Instant>;

type Named<T> = HashMap<Arc<str>, Kept<T>, Beginning>;

struct Kept<T: ?Sized> {
    visit: AtomicU64,
    value: Arc<T>,
}

impl<T: ?Sized> Hosts<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max.max(1)),
            arrivals: AtomicU64::new(0),
            nameless: OnceLock::new(),
            named: RwLock::default(),
            last_use: |_| None,
        }
    }

    /// The same for values that know when they were last used. They are asked
    /// under a lock that a new host takes.
    #[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
    pub(crate) fn by_use(self, last_use: LastUse<T>) -> Self {
        Self { last_use, ..self }
    }

    /// How many hosts are remembered.
    #[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// How many hosts are remembered from now on; those too many leave when the
    /// next new one comes.
    #[cfg(any(feature = "config", feature = "retry"))]
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max.max(1), Ordering::Relaxed);
    }

    /// The value of requests that name no host, made with the first of them.
    #[inline]
    pub(crate) fn nameless(&self, make: impl FnOnce() -> Arc<T>) -> &Arc<T> {
        if let Some(value) = self.nameless.get() {
            return value;
        }
        // Under the lock, so that a change of all values misses none.
        let _named = write(&self.named);
        self.nameless.get_or_init(make)
    }

    #[inline]
    pub(crate) fn get(&self, host: &str, make: impl FnOnce(Arc<str>) -> Arc<T>) -> Arc<T> {
        self.with(host, make, Arc::clone)
    }

    /// Looks at a host's value. Other hosts can be looked up meanwhile, but none
    /// can be new.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        host: &str,
        make: impl FnOnce(Arc<str>) -> Arc<T>,
        f: impl FnOnce(&Arc<T>) -> R,
    ) -> R {
        if let Some(kept) = read(&self.named).get(host) {
            return f(kept.visited(&self.arrivals));
        }
        f(&self.arrived(host, make))
    }

    #[cold]
    fn arrived(&self, host: &str, make: impl FnOnce(Arc<str>) -> Arc<T>) -> Arc<T> {
        let mut named = write(&self.named);
        if let Some(kept) = named.get(host) {
            return kept.visited(&self.arrivals).clone();
        }
        let max = self.max.load(Ordering::Relaxed);
        if named.len() >= max {
            evict(&mut named, max - 1, self.last_use);
        }
        let name: Arc<str> = host.into();
        let value = make(name.clone());
        let kept = Kept {
            // Older than what is asked for from now on.
            visit: AtomicU64::new(self.arrivals.fetch_add(1, Ordering::Relaxed)),
            value: value.clone(),
        };
        named.insert(name, kept);
        value
    }

    /// Whether there have been so many hosts that the next new one may push one out.
    #[cfg(feature = "retry")]
    pub(crate) fn may_forget(&self) -> bool {
        self.arrivals.load(Ordering::Relaxed) >= self.max.load(Ordering::Relaxed) as u64
    }

    /// The value of a host that is known.
    pub(crate) fn known(&self, host: &str) -> Option<Arc<T>> {
        read(&self.named).get(host).map(|kept| kept.value.clone())
    }

    /// Every value there is, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        let named = read(&self.named);
        let values = named.values().map(|kept| kept.value.clone());
        values.chain(self.nameless.get().cloned()).collect()
    }
}

impl<T: ?Sized> Kept<T> {
    #[inline]
    fn visited(&self, arrivals: &AtomicU64) -> &Arc<T> {
        let visit = arrivals.load(Ordering::Relaxed);
        if self.visit.load(Ordering::Relaxed) != visit {
            self.visit.store(visit, Ordering::Relaxed);
        }
        &self.value
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Takes out the hosts that were asked for the longest ago, until `keep` are
/// left. Whoever has a call in flight, or waits, or has just looked its host up
/// holds its value too.
fn evict<T: ?Sized>(named: &mut Named<T>, keep: usize, last_use: LastUse<T>) {
    let visit = |kept: &Kept<T>| kept.visit.load(Ordering::Relaxed);
    let idle = named
        .iter()
        .filter(|(_, kept)| Arc::strong_count(&kept.value) == 1);
    let surplus = named.len() - keep;
    let gone: Vec<_> = if surplus == 1 {
        // With every new host where there are more than the maximum. Only those
        // that the visits do not tell apart are asked for more.
        let oldest = idle.clone().map(|(_, kept)| visit(kept)).min();
        idle.filter(|(_, kept)| Some(visit(kept)) == oldest)
            .min_by_key(|(host, kept)| (last_use(&kept.value), *host))
            .map(|(host, _)| host.clone())
            .into_iter()
            .collect()
    } else {
        let age = |(host, kept)| (visit(kept), last_use(&kept.value), host);
        let mut idle: Vec<_> = idle.map(age).collect();
        idle.sort_unstable();
        let oldest = idle.into_iter().take(surplus);
        oldest.map(|(_, _, host)| host.clone()).collect()
    };
    for host in gone {
        named.remove(&host);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn get(hosts: &Hosts<String>, host: &str) -> Arc<String> {
        hosts.get(host, |name| Arc::new(name.to_string()))
    }

    fn knows(hosts: &Hosts<String>, host: &str) -> bool {
        hosts.known(host).is_some()
    }

    #[test]
    fn the_host_asked_for_the_longest_ago_leaves_first_and_none_that_is_in_use() {
        let hosts = Hosts::new(3);
        let held = get(&hosts, "held");
        get(&hosts, "a");
        get(&hosts, "b");
        get(&hosts, "a");
        get(&hosts, "c");
        assert!(knows(&hosts, "held") && knows(&hosts, "a") && !knows(&hosts, "b"));
        let all = [get(&hosts, "a"), get(&hosts, "c")];
        get(&hosts, "d");
        assert_eq!(read(&hosts.named).len(), 4, "all three are in use");
        drop((held, all));
        get(&hosts, "e");
        assert!(!knows(&hosts, "held") && knows(&hosts, "d"));
    }

    #[test]
    fn names_hash_apart_by_every_byte_and_their_length() {
        let hash = |name: &str| Beginning(7).hash_one(name);
        let long = |n: usize| format!("shard-{n:05}.index.internal:6333");
        let mut names: Vec<String> = (0..5000).map(long).collect();
        names.extend((0..40).map(|n| "a".repeat(n)));
        names.extend((1..9).map(|n| "\0".repeat(n)));
        let hashes: HashSet<u64> = names.iter().map(|name| hash(name)).collect();
        assert_eq!(hashes.len(), names.len());
        // A map takes the place from the low bits and a tag from the high ones.
        for bits in [0, 56] {
            let low: HashSet<u64> = hashes.iter().map(|hash| hash >> bits & 0xff).collect();
            assert_eq!(low.len(), 256);
        }
    }

    #[test]
    fn names_that_collide_from_one_beginning_do_not_from_another() {
        // Eight bytes, and the eight that make them vanish from a beginning of 0.
        let chosen = ["ay0gbel31ih$1`(Z", "9usf7m6n_KY@b/V*", "gd7s1vs1yES7ZVF]"];
        let hashes = |beginning| {
            let hash = |name| Beginning(beginning).hash_one(name);
            chosen.map(hash).into_iter().collect::<HashSet<u64>>().len()
        };
        assert_eq!((hashes(0), hashes(1), hashes(u64::MAX)), (1, 3, 3));
        let own = [(); 9].map(|()| Beginning::default().0);
        assert_eq!(HashSet::from(own).len(), 9);
    }

    #[test]
    fn a_look_at_a_known_host_writes_nothing() {
        let hosts = Hosts::new(3);
        get(&hosts, "a");
        get(&hosts, "a");
        let arrivals = hosts.arrivals.load(Ordering::Relaxed);
        let visit = || read(&hosts.named)["a"].visit.load(Ordering::Relaxed);
        assert_eq!(visit(), arrivals);
        get(&hosts, "a");
        assert_eq!(
            (visit(), hosts.arrivals.load(Ordering::Relaxed)),
            (arrivals, arrivals)
        );
    }

    #[test]
    fn a_hosts_value_is_made_once() {
        let hosts = Hosts::new(0);
        let first = get(&hosts, "a");
        let again = hosts.get("a", |_| unreachable!());
        assert!(Arc::ptr_eq(&first, &again));
        let nameless = hosts.nameless(|| Arc::new("x".to_owned())).clone();
        assert!(Arc::ptr_eq(&nameless, hosts.nameless(|| unreachable!())));
    }

    #[test]
    fn a_host_is_named_by_the_uri_or_the_header_without_user_and_case() {
        let mut headers = HeaderMap::new();
        let host = |uri: &'static str, headers: &HeaderMap| {
            host_of(&Uri::from_static(uri), headers).map(Cow::into_owned)
        };
        assert_eq!(host("/a", &headers), None);
        headers.insert(header::HOST, "By.Header:80".parse().unwrap());
        assert_eq!(host("/a", &headers).unwrap(), "by.header:80");
        for nobody in ["", "user@"] {
            headers.insert(header::HOST, nobody.parse().unwrap());
            assert_eq!(host("/a", &headers), None);
        }
        let named = host("http://user:p%40w@Index.Internal:8080/a", &headers);
        assert_eq!(named.unwrap(), "index.internal:8080");
    }
}
