#[cfg(feature = "weir")]
use std::sync::OnceLock;
use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    entry::Entry,
    gate::{Gate, host_seed},
    knobs::Knobs,
    settings::Settings,
};
#[cfg(feature = "weir")]
use crate::retry::budget::Budgets;
use crate::{
    hosts::Hosts,
    observe::Seam,
    panics::for_each,
    shutdown::{Member, Shutdown},
    updates::Updates,
};

/// The entries of a layer, by host.
pub(crate) struct Registry<G: Gate> {
    pub(super) knobs: Arc<Knobs>,
    config: RwLock<G::Config>,
    /// How often that was changed.
    changes: AtomicU64,
    updates: Updates,
    seed: u64,
    seam: Seam,
    name: Arc<str>,
    hosts: Hosts<Entry<G>>,
    /// Where a retry layer right above leaves its budgets to the hosts' entries.
    #[cfg(feature = "weir")]
    budgets: OnceLock<Budgets>,
    draining: AtomicBool,
    drained: Arc<Notify>,
    shutdown: Option<Shutdown>,
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
            knobs: Arc::new(Knobs::of(&Settings::default())),
            config: RwLock::new(config),
            changes: AtomicU64::new(0),
            updates: Updates::default(),
            seed,
            seam,
            name,
            hosts: Hosts::new(max).by_use(Entry::last_use),
            #[cfg(feature = "weir")]
            budgets: OnceLock::new(),
            draining: AtomicBool::new(false),
            drained: Arc::new(Notify::new()),
            shutdown: None,
        }
    }

    /// The same, with hosts that `shutdown` closes, if there is one.
    pub(crate) fn joined(mut self, shutdown: Option<&Shutdown>) -> Self {
        if let Some(shutdown) = shutdown {
            self.drained = shutdown.ended();
            self.shutdown = Some(shutdown.clone());
        }
        self
    }

    /// The same, with the settings of its calls, where those may change.
    pub(super) fn with(self, knobs: Knobs) -> Self {
        Self {
            knobs: Arc::new(knobs),
            ..self
        }
    }

    #[inline]
    pub(crate) fn nameless(&self) -> &Arc<Entry<G>> {
        self.hosts.nameless(|| self.make(self.name.clone(), false))
    }

    pub(crate) fn get(&self, host: &str) -> Arc<Entry<G>> {
        self.hosts.get(host, |host| self.make(host, true))
    }

    #[cold]
    fn make(&self, host: Arc<str>, named: bool) -> Arc<Entry<G>> {
        let now = Instant::now();
        let gate = G::open(&read(&self.config), &host, host_seed(self.seed, &host), now);
        let draining = self.draining.load(Ordering::Relaxed);
        let (seam, drained, knobs) = (&self.seam, &self.drained, &self.knobs);
        let (seam, drained, knobs) = (seam.clone(), drained.clone(), knobs.clone());
        #[cfg(feature = "weir")]
        let budget = {
            let budgets = self.budgets.get();
            budgets.and_then(|budgets| budgets.of(named.then_some(&*host)))
        };
        #[cfg(not(feature = "weir"))]
        let _ = named;
        let entry = Entry::new(host, gate, seam, drained, knobs, draining);
        #[cfg(feature = "weir")]
        let entry = entry.with_budget(budget);
        let entry = Arc::new(entry);
        if let Some(shutdown) = &self.shutdown {
            // Not the registry: a call whose body is open may outlive that.
            let member: Arc<dyn Member> = entry.clone();
            shutdown.join(&member);
        }
        entry
    }

    /// Has the entries to come know their hosts' budgets. It is said once, before
    /// there are any.
    #[cfg(feature = "weir")]
    pub(crate) fn entrust(&self, budgets: Budgets) {
        let _ = self.budgets.set(budgets);
    }

    pub(crate) fn config(&self) -> G::Config {
        read(&self.config).clone()
    }

    pub(crate) fn seam(&self) -> &Seam {
        &self.seam
    }

    #[cfg(all(test, feature = "config"))]
    pub(crate) fn knobs(&self) -> &Knobs {
        &self.knobs
    }

    /// Changes the settings of the calls to come, and how long those may wait that
    /// do.
    #[cfg(feature = "config")]
    pub(crate) fn tune(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::default();
        self.knobs.write_to(&mut settings);
        let patience = settings.queue_timeout;
        change(&mut settings);
        self.knobs.set(&settings);
        if settings.queue_timeout < patience {
            // Their timers are set to what was.
            for entry in self.entries() {
                entry.remind();
            }
        }
        if !settings.enabled {
            for entry in self.entries() {
                entry.rouse();
            }
        }
        self.set_max(settings.max_hosts);
    }

    /// How many hosts are remembered.
    pub(crate) fn max(&self) -> usize {
        self.hosts.max()
    }

    /// How many hosts are remembered from now on.
    #[cfg(feature = "config")]
    pub(crate) fn set_max(&self, hosts: usize) {
        self.hosts.set_max(hosts);
    }

    /// Changes a part of the settings of all hosts, those to come included, by the
    /// user's code: that gets a copy, and holds nobody up but others who change
    /// them. Should it panic, there was no change.
    pub(crate) fn update<T>(
        &self,
        part: impl FnOnce(&G::Config) -> T,
        change: impl FnOnce(T) -> T,
        put: impl FnOnce(&mut G::Config, T),
    ) {
        {
            let _update = self.updates.begin();
            let part = part(&read(&self.config));
            let changed = change(part);
            self.set(|config| put(config, changed));
        }
        self.reconfigure();
    }

    /// Changes the settings of all hosts, while no user's code changes them.
    #[cfg(feature = "config")]
    pub(crate) fn replace(&self, put: impl FnOnce(&mut G::Config)) {
        self.update(|_| (), |()| (), |config, ()| put(config));
    }

    /// Changes what no user's code does.
    #[cfg(feature = "server")]
    pub(crate) fn report(&self, put: impl FnOnce(&mut G::Config)) {
        self.set(put);
        self.reconfigure();
    }

    fn set(&self, put: impl FnOnce(&mut G::Config)) {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        put(&mut config);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Has all hosts go by the settings.
    fn reconfigure(&self) {
        let now = Instant::now();
        loop {
            let (config, changes) = {
                let config = read(&self.config);
                (config.clone(), self.changes.load(Ordering::Acquire))
            };
            let change = |gate: &mut G, events: &mut _| gate.reconfigure(&config, now, events);
            let panicked = for_each(self.entries(), |entry| entry.change(now, change));
            // Somebody may have changed them meanwhile, and been at a host first.
            if self.changes.load(Ordering::Acquire) == changes {
                return panicked.resume();
            }
        }
    }

    /// Admits no more calls, refuses those who wait, and returns when the last
    /// call in flight has ended.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let close = |entry: Arc<Entry<G>>| {
            entry.close();
        };
        for_each(self.entries(), close).resume();
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            drained.as_mut().enable();
            let (entries, now) = (self.entries(), Instant::now());
            // Nobody waits any more who would look after these.
            let next = entries.iter().filter_map(|entry| entry.reclaim(now)).min();
            if entries.iter().all(|entry| entry.is_quiet()) {
                return;
            }
            match next {
                // Whichever comes first: then it is looked again.
                Some(next) => drop(timeout_at(next, drained).await),
                None => drained.await,
            }
        }
    }

    /// Every host that is known, in the order of their names.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry<G>>> {
        let mut entries = self.hosts.all();
        entries.sort_by(|a, b| a.host().cmp(b.host()));
        entries
    }

    /// The entry of a host that is known: by its calls, or as the one host.
    pub(crate) fn known(&self, host: &str) -> Option<Arc<Entry<G>>> {
        if *host == *self.name {
            return Some(self.nameless().clone());
        }
        self.hosts.known(host)
    }

    /// Looks at every host that is known.
    pub(crate) fn inspect_all<R>(
        &self,
        mut f: impl FnMut(&mut G, usize) -> R,
    ) -> Vec<(Arc<str>, R)> {
        let now = Instant::now();
        let look = |entry: Arc<Entry<G>>| {
            entry.reclaim(now);
            (entry.host().clone(), entry.inspect(&mut f))
        };
        self.entries().into_iter().map(look).collect()
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
