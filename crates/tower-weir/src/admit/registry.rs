use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::time::Instant;

use super::{
    entry::Entry,
    gate::{Gate, host_seed},
};
use crate::observe::Observer;

/// The entries of a layer, by host.
///
/// Looking a known host up takes a lock that only readers share. A new host may
/// push out the one that has been idle the longest; one that is in use never
/// leaves, so that there can be more entries than `max` while more hosts than
/// that have calls in flight.
pub(crate) struct Registry<G: Gate> {
    config: G::Config,
    seed: u64,
    max: usize,
    made: Instant,
    /// The entry of requests that name no host, made with the first of them.
    nameless: OnceLock<Arc<Entry<G>>>,
    name: Arc<str>,
    hosts: RwLock<HashMap<Arc<str>, Arc<Entry<G>>>>,
}

impl<G: Gate> Registry<G> {
    /// `name` is that of the one host, where all requests go to one.
    pub(crate) fn new(config: G::Config, seed: u64, max: usize, name: Arc<str>) -> Self {
        Self {
            nameless: OnceLock::new(),
            name,
            config,
            seed,
            max: max.max(1),
            made: Instant::now(),
            hosts: RwLock::new(HashMap::new()),
        }
    }

    pub(crate) fn nameless(&self, now: Instant) -> &Arc<Entry<G>> {
        self.nameless
            .get_or_init(|| make(&self.config, self.seed, self.name.clone(), now))
    }

    pub(crate) fn get(&self, host: &str, now: Instant) -> Arc<Entry<G>> {
        let nanos = now.saturating_duration_since(self.made).as_nanos() as u64;
        if let Some(entry) = self.read().get(host) {
            entry.touch(nanos);
            return entry.clone();
        }
        let mut hosts = self.write();
        if let Some(entry) = hosts.get(host) {
            entry.touch(nanos);
            return entry.clone();
        }
        if hosts.len() >= self.max {
            evict(&mut hosts);
        }
        let name: Arc<str> = host.into();
        let entry = make(&self.config, self.seed, name.clone(), now);
        entry.touch(nanos);
        hosts.insert(name, entry.clone());
        entry
    }

    /// Looks at every host that is known, in the order of their names.
    pub(crate) fn inspect_all<R>(
        &self,
        mut f: impl FnMut(&mut G, usize) -> R,
    ) -> Vec<(Arc<str>, R)> {
        let mut entries: Vec<_> = self.read().values().cloned().collect();
        entries.extend(self.nameless.get().cloned());
        entries.sort_by(|a, b| a.host().cmp(b.host()));
        let look = |entry: Arc<Entry<G>>| (entry.host().clone(), entry.inspect(&mut f));
        entries.into_iter().map(look).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Arc<str>, Arc<Entry<G>>>> {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Arc<str>, Arc<Entry<G>>>> {
        self.hosts.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out the host that has been idle the longest. Whoever has a call in
/// flight, or waits, or has just looked its host up holds its entry too.
fn evict<G: Gate>(hosts: &mut HashMap<Arc<str>, Arc<Entry<G>>>) {
    let idle = hosts
        .iter()
        .filter(|(_, entry)| Arc::strong_count(entry) == 1)
        .min_by_key(|(_, entry)| entry.used())
        .map(|(host, _)| host.clone());
    if let Some(host) = idle {
        hosts.remove(&host);
    }
}

fn make<G: Gate>(config: &G::Config, seed: u64, host: Arc<str>, now: Instant) -> Arc<Entry<G>> {
    let gate = G::open(config, &host, host_seed(seed, &host), now);
    Arc::new(Entry::new(host, gate, Observer))
}
