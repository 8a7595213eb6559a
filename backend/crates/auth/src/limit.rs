//! Slows down guessing.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Sign-ins an address may try at once; one more every two seconds.
const BURST: NonZeroU32 = NonZeroU32::new(30).expect("30 is not zero");
/// Time in which one try is given back.
const REFILL: Duration = Duration::from_secs(2);

/// Limits sign-ins per address. A guess costs the API server a review, and tokens are too long to be guessed: the limit
/// protects the API server more than the tokens.
pub struct SignInLimiter {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
}

impl Default for SignInLimiter {
    fn default() -> Self {
        let quota = Quota::with_period(REFILL)
            .expect("the period is not zero")
            .allow_burst(BURST);
        Self {
            limiter: RateLimiter::keyed(quota),
        }
    }
}

impl SignInLimiter {
    /// Counts one try of that address.
    ///
    /// # Errors
    /// How long to wait when there were too many.
    pub fn check(&self, address: IpAddr) -> Result<(), Duration> {
        self.limiter
            .check_key(&network(address))
            .map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets addresses that have all their tries again.
    pub fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// Who has one IPv6 address usually has the 2^64 beside it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_tries_must_wait_and_others_need_not() {
        let limiter = SignInLimiter::default();
        let first: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..BURST.get() {
            limiter.check(first).unwrap();
        }
        let neighbour = limiter.check("2001:db8::ffff:1".parse().unwrap()).unwrap_err();
        assert!(neighbour > Duration::ZERO && neighbour <= REFILL, "{neighbour:?}");
        limiter.check("192.0.2.1".parse().unwrap()).unwrap();
        limiter.check("::ffff:192.0.2.2".parse().unwrap()).unwrap();
    }
}
