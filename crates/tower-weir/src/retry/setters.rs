/// Writes the policy's setters on a layer that has a policy within. `$change`
/// applies a change of the policy to the layer.
macro_rules! policy_setters {
    (|$layer:ident, $policy:ident| $apply:expr) => {
        /// How many attempts may follow the first. Default 3, for gRPC 5. See
        /// [`RetryPolicy::max_retries`](crate::retry::RetryPolicy::max_retries).
        #[must_use]
        pub fn max_retries(self, retries: u32) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.max_retries(retries)
            });
            $apply
        }

        /// Takes every request for safe to repeat, whatever its method. See
        /// [`RetryPolicy::any_method`](crate::retry::RetryPolicy::any_method).
        #[must_use]
        pub fn any_method(self) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.any_method(true)
            });
            $apply
        }

        /// The time that a whole request may take, with all its attempts. See
        /// [`RetryPolicy::deadline`](crate::retry::RetryPolicy::deadline).
        #[must_use]
        pub fn deadline(self, deadline: impl Into<Option<std::time::Duration>>) -> Self {
            let deadline = deadline.into();
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.deadline(deadline)
            });
            $apply
        }

        /// Which HTTP statuses are repeated. See
        /// [`RetryPolicy::retry_statuses`](crate::retry::RetryPolicy::retry_statuses).
        #[must_use]
        pub fn retry_statuses(self, statuses: impl IntoIterator<Item = http::StatusCode>) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.retry_statuses(statuses)
            });
            $apply
        }

        /// Which gRPC codes are repeated. See
        /// [`RetryPolicy::retry_codes`](crate::retry::RetryPolicy::retry_codes).
        #[must_use]
        pub fn retry_codes(
            self,
            codes: impl IntoIterator<Item = crate::outcome::GrpcCode>,
        ) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.retry_codes(codes)
            });
            $apply
        }

        /// The rule for waits that the upstream did not choose. See
        /// [`RetryPolicy::backoff`](crate::retry::RetryPolicy::backoff).
        #[must_use]
        pub fn backoff(self, backoff: impl crate::retry::backoff::Backoff + 'static) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.backoff(backoff)
            });
            $apply
        }

        /// How many retries each host must bear: by default 20% of the requests
        /// that went well in the last 10 s, plus 10 a second. See
        /// [`RetryPolicy::budget`](crate::retry::RetryPolicy::budget).
        #[must_use]
        pub fn budget<B: crate::retry::budget::Budget + 'static>(
            self,
            make: impl Fn() -> B + Send + Sync + 'static,
        ) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.budget(make)
            });
            $apply
        }

        /// Makes every retry that is due. **An outage then multiplies the
        /// load**: read
        /// [`RetryPolicy::no_budget`](crate::retry::RetryPolicy::no_budget)
        /// first.
        #[must_use]
        pub fn no_budget(self) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.no_budget()
            });
            $apply
        }

        /// Gives each request whose method is not idempotent a key. See
        /// [`RetryPolicy::idempotency_key`](crate::retry::RetryPolicy::idempotency_key).
        #[cfg(feature = "idempotency")]
        #[cfg_attr(docsrs, doc(cfg(feature = "idempotency")))]
        #[must_use]
        pub fn idempotency_key(self, key: crate::retry::IdempotencyKey) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.idempotency_key(key)
            });
            $apply
        }

        /// The longest wait that the upstream may ask for. Default: the longest
        /// wait there is. See
        /// [`RetryPolicy::max_hint`](crate::retry::RetryPolicy::max_hint).
        #[must_use]
        pub fn max_hint(self, wait: std::time::Duration) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.max_hint(wait)
            });
            $apply
        }

        /// The longest wait before a retry. Default 60 s. See
        /// [`RetryPolicy::max_wait`](crate::retry::RetryPolicy::max_wait).
        #[must_use]
        pub fn max_wait(self, wait: std::time::Duration) -> Self {
            let ($layer, $policy) = (self, |policy: crate::retry::RetryPolicy<C>| {
                policy.max_wait(wait)
            });
            $apply
        }
    };
}

pub(crate) use policy_setters;
