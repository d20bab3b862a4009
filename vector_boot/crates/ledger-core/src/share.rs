//! How a bounded whole is divided among tenants: a part of it is each one's own, whatever the others do.

/// The bounds of one thing that tenants use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// What a tenant can always have.
    pub own: usize,
    /// What it can have while there is room.
    pub each: usize,
    /// What all tenants together may have beyond their own.
    pub pool: usize,
}

impl Share {
    /// Whether a tenant that uses `own` may use one more; `all` is what each tenant uses.
    #[must_use]
    pub fn admits(&self, own: usize, all: impl Iterator<Item = usize>) -> bool {
        let beyond = |used: usize| used.saturating_sub(self.own);
        own < self.own || (own < self.each && all.map(beyond).sum::<usize>() < self.pool)
    }

    /// What the refusal says to who has so many; never what others have.
    #[must_use]
    pub fn limit(&self, own: usize) -> &'static str {
        match own < self.each {
            true => "no room beyond what is each tenant's own",
            false => "as many as a tenant may have",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_tenant_s_own_is_there_whatever_the_others_use() {
        let share = Share {
            own: 2,
            each: 5,
            pool: 3,
        };
        assert!(share.admits(4, [4].into_iter()));
        assert!(!share.admits(5, [5].into_iter()));
        assert!(!share.admits(2, [5, 2].into_iter()), "the pool is used up");
        assert!(share.admits(1, [5, 5, 5, 1].into_iter()));
        assert_ne!(share.limit(4), share.limit(5));
    }
}
