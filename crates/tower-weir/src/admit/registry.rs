use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};

use super::{
    entry::Entry,
    gate::{Gate, host_seed},
};
use crate::observe::Seam;

/// The entries of a layer, by host.
///
/// Looking a known host up takes a lock that only readers share. A new host may
/// push out the one that has been idle the longest; one that is in use never
/// leaves, so that there can be more entries than `max` while more hosts than
/// that have calls in flight.
pub(crate) struct Registry<G: Gate> {
    config: RwLock<G::Config>,
    seed: u64,
    max: usize,
    made: Instant,
    seam: Seam,
    /// The entry of requests that name no host, made with the first of them.
    nameless: OnceLock<Arc<Entry<G>>>,
    name: Arc<str>,
    hosts: RwLock<HashMap<Arc<str>, Arc<Entry<G>>>>,
    draining: AtomicBool,
    drained: Arc<Notify>,
}

impl<G: Gate> Registry<G> {
    /// `name` is that of the one host, where all requests go to one.
    pub(crate) fn new(
        config: G::Config,
        seed: u64,
        max: usize,
        name: Arc<str>,
        seam: Seam,
    ) -> Self {
        Self {
            config: RwLock::new(config),
            seed,
            max: max.max(1),
            made: Instant::now(),
            seam,
            nameless: OnceLock::new(),
            name,
            hosts: RwLock::new(HashMap::new()),
            draining: AtomicBool::new(false),
            drained: Arc::new(Notify::new()),
        }
    }

    pub(crate) fn nameless(&self, now: Instant) -> &Arc<Entry<G>> {
        if let Some(entry) = self.nameless.get() {
            return entry;
        }
        // Under the lock that `update` and `drain` take while they go round.
        let _hosts = write(&self.hosts);
        self.nameless
            .get_or_init(|| self.make(self.name.clone(), now))
    }

    pub(crate) fn get(&self, host: &str, now: Instant) -> Arc<Entry<G>> {
        let nanos = now.saturating_duration_since(self.made).as_nanos() as u64;
        if let Some(entry) = read(&self.hosts).get(host) {
            entry.touch(nanos);
            return entry.clone();
        }
        let mut hosts = write(&self.hosts);
        if let Some(entry) = hosts.get(host) {
            entry.touch(nanos);
            return entry.clone();
        }
        if hosts.len() >= self.max {
            evict(&mut hosts, self.max - 1);
        }
        let name: Arc<str> = host.into();
        let entry = self.make(name.clone(), now);
        entry.touch(nanos);
        hosts.insert(name, entry.clone());
        entry
    }

    fn make(&self, host: Arc<str>, now: Instant) -> Arc<Entry<G>> {
        let gate = G::open(&read(&self.config), &host, host_seed(self.seed, &host), now);
        let draining = self.draining.load(Ordering::Relaxed);
        let (seam, drained) = (self.seam.clone(), self.drained.clone());
        Arc::new(Entry::new(host, gate, seam, drained, draining))
    }

    pub(crate) fn config(&self) -> G::Config {
        read(&self.config).clone()
    }

    pub(crate) fn seam(&self) -> &Seam {
        &self.seam
    }

    /// Changes the settings of all hosts, those to come included.
    pub(crate) fn update(&self, change: impl FnOnce(&mut G::Config)) {
        let now = Instant::now();
        let config = {
            let mut config = write(&self.config);
            change(&mut config);
            config.clone()
        };
        for entry in self.entries() {
            entry.change(now, |gate, events| gate.reconfigure(&config, now, events));
        }
    }

    /// Admits no more calls, refuses those who wait, and returns when the last
    /// call in flight has ended.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let now = Instant::now();
        for entry in self.entries() {
            entry.drain(now);
        }
        loop {
            let drained = self.drained.notified();
            let mut drained = std::pin::pin!(drained);
            drained.as_mut().enable();
            if self.entries().iter().all(|entry| entry.is_drained()) {
                return;
            }
            drained.await;
        }
    }

    /// Every host that is known, in the order of their names.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry<G>>> {
        let hosts = read(&self.hosts);
        let mut entries: Vec<_> = hosts.values().cloned().collect();
        entries.extend(self.nameless.get().cloned());
        drop(hosts);
        entries.sort_by(|a, b| a.host().cmp(b.host()));
        entries
    }

    /// The entry of a host that is known: by its calls, or as the one host.
    pub(crate) fn known(&self, host: &str, now: Instant) -> Option<Arc<Entry<G>>> {
        if *host == *self.name {
            return Some(self.nameless(now).clone());
        }
        read(&self.hosts).get(host).cloned()
    }

    /// Looks at every host that is known.
    pub(crate) fn inspect_all<R>(
        &self,
        mut f: impl FnMut(&mut G, usize) -> R,
    ) -> Vec<(Arc<str>, R)> {
        let look = |entry: Arc<Entry<G>>| (entry.host().clone(), entry.inspect(&mut f));
        self.entries().into_iter().map(look).collect()
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Takes out the hosts that have been idle the longest, until `keep` are left.
/// Whoever has a call in flight, or waits, or has just looked its host up holds
/// its entry too.
fn evict<G: Gate>(hosts: &mut HashMap<Arc<str>, Arc<Entry<G>>>, keep: usize) {
    let idle = hosts
        .iter()
        .filter(|(_, entry)| Arc::strong_count(entry) == 1);
    // By name too: the map's own order is another in each run.
    let mut idle: Vec<_> = idle
        .map(|(host, entry)| (entry.used(), host.clone()))
        .collect();
    idle.sort_unstable();
    let surplus = hosts.len() - keep;
    for (_, host) in idle.iter().take(surplus) {
        hosts.remove(host);
    }
}
