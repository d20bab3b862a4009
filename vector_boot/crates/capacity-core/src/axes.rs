//! The five axes and shares of them, parsed at the border.
//!
//! A share is a whole number of basis points, 0 to 10,000, of what the node can give on that axis.
//! The wire takes floats in [0, 1]; what is NaN, infinite or out of range never gets in.

/// Number of axes.
pub const AXES: usize = 5;

/// One kind of capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// CPU time and topology.
    Geo,
    /// Operations, connections and bytes between parts.
    Int,
    /// Consensus rounds: commit slots of the ledger.
    Gauge,
    /// Memory, tasks and descriptors.
    Ptr,
    /// Series, log bytes and spans.
    Obs,
}

impl Axis {
    /// Every axis, in the order of the wire.
    pub const ALL: [Self; AXES] = [Self::Geo, Self::Int, Self::Gauge, Self::Ptr, Self::Obs];

    /// As the outside writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Geo => "C_geo",
            Self::Int => "C_int",
            Self::Gauge => "C_gauge",
            Self::Ptr => "C_ptr",
            Self::Obs => "C_obs",
        }
    }

    /// Its bit in a set of axes, bit 0 for geo.
    #[must_use]
    pub fn bit(self) -> u8 {
        match self {
            Self::Geo => 1,
            Self::Int => 2,
            Self::Gauge => 4,
            Self::Ptr => 8,
            Self::Obs => 16,
        }
    }

    /// What PID 1 and the services keep for themselves; never leased. Source: `docs/capacity.md`.
    #[must_use]
    pub fn reserve(self) -> BasisPoints {
        BasisPoints(match self {
            Self::Geo | Self::Obs => 1000,
            Self::Int => 500,
            Self::Gauge => 0,
            Self::Ptr => 1500,
        })
    }

    /// What leases may have: all but the reserve.
    #[must_use]
    pub fn budget(self) -> BasisPoints {
        BasisPoints(BasisPoints::FULL.0 - self.reserve().0)
    }
}

/// Why a share or a demand is refused. The axis is named by whoever parses the vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AxisError {
    /// A float that is NaN, infinite, negative or above one.
    Share(f64),
    /// More basis points than there are.
    BasisPoints(u16),
    /// More guaranteed than wanted.
    WantBelowMin {
        /// Guaranteed basis points.
        min: u16,
        /// Wanted basis points.
        want: u16,
    },
    /// A weight outside 1 to [`WEIGHT_MAX`].
    Weight(u16),
}

impl std::fmt::Display for AxisError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(x) => write!(f, "share {x}: 0 to 1"),
            Self::BasisPoints(n) => write!(f, "basis points {n}: at most {}", BasisPoints::FULL.0),
            Self::WantBelowMin { min, want } => write!(f, "want {want}: at least min {min}"),
            Self::Weight(n) => write!(f, "weight {n}: 1 to {WEIGHT_MAX}"),
        }
    }
}

impl std::error::Error for AxisError {}

/// A share in ten-thousandths, never above the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct BasisPoints(u16);

impl BasisPoints {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The whole.
    pub const FULL: Self = Self(10_000);

    /// A share from basis points.
    ///
    /// # Errors
    /// [`AxisError::BasisPoints`] above 10,000.
    pub fn new(points: u16) -> Result<Self, AxisError> {
        if points > Self::FULL.0 {
            return Err(AxisError::BasisPoints(points));
        }
        Ok(Self(points))
    }

    /// A share from a float in [0, 1], rounded to the nearest basis point.
    ///
    /// # Errors
    /// [`AxisError::Share`] for NaN, infinities and what is out of range.
    pub fn from_share(share: f64) -> Result<Self, AxisError> {
        // A NaN is contained in no range.
        if !(0.0..=1.0).contains(&share) {
            return Err(AxisError::Share(share));
        }
        // In range 0 to 10,000 after the check above, so the cast cannot lose anything.
        Ok(Self((share * f64::from(Self::FULL.0)).round() as u16))
    }

    /// The basis points.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// As a float in [0, 1].
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / f64::from(Self::FULL.0)
    }

    /// This share of `whole`, rounded down. Sums of shares of one whole thus never exceed it.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.0) / u128::from(Self::FULL.0);
        // A share is at most the whole, which is a u64.
        part as u64
    }
}

/// Largest weight: keeps products of surplus and weight inside 32 bits.
pub const WEIGHT_MAX: u16 = 1000;

/// What is asked of one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    min: BasisPoints,
    want: BasisPoints,
    weight: u16,
}

impl Demand {
    /// A demand: `min` is guaranteed, up to `want` is taken, `weight` shares the surplus.
    ///
    /// # Errors
    /// [`AxisError`].
    pub fn new(min: u16, want: u16, weight: u16) -> Result<Self, AxisError> {
        let (min, want) = (BasisPoints::new(min)?, BasisPoints::new(want)?);
        if want < min {
            return Err(AxisError::WantBelowMin {
                min: min.0,
                want: want.0,
            });
        }
        if weight == 0 || weight > WEIGHT_MAX {
            return Err(AxisError::Weight(weight));
        }
        Ok(Self { min, want, weight })
    }

    /// What is guaranteed.
    #[must_use]
    pub fn min(self) -> BasisPoints {
        self.min
    }

    /// What is taken at most.
    #[must_use]
    pub fn want(self) -> BasisPoints {
        self.want
    }

    /// Share of the surplus against others.
    #[must_use]
    pub fn weight(self) -> u16 {
        self.weight
    }
}

/// A demand per axis; `None` guarantees and wants nothing.
pub type Ask = [Option<Demand>; AXES];
/// A share per axis.
pub type Grants = [BasisPoints; AXES];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn floats_that_are_no_share_are_refused() {
        for bad in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -1e-9,
            1.000_001,
            -f64::NAN,
        ] {
            assert!(BasisPoints::from_share(bad).is_err(), "{bad}");
        }
        assert_eq!(BasisPoints::from_share(0.7).unwrap().get(), 7000);
        assert_eq!(BasisPoints::from_share(-0.0).unwrap().get(), 0);
        assert_eq!(BasisPoints::from_share(1.0).unwrap(), BasisPoints::FULL);
        assert_eq!(
            BasisPoints::new(10_001),
            Err(AxisError::BasisPoints(10_001))
        );
    }

    #[test]
    fn demands_hold_their_order() {
        assert!(Demand::new(5, 4, 1).is_err());
        assert!(Demand::new(5, 5, 0).is_err());
        assert!(Demand::new(5, 5, WEIGHT_MAX + 1).is_err());
        assert!(Demand::new(0, 10_001, 1).is_err());
        assert_eq!(Demand::new(5, 6, 7).unwrap().want().get(), 6);
    }

    proptest! {
        #[test]
        fn any_float_parses_to_a_share_or_not_at_all(bits: u64) {
            if let Ok(points) = BasisPoints::from_share(f64::from_bits(bits)) {
                prop_assert!(points <= BasisPoints::FULL);
            }
        }

        #[test]
        fn parts_of_a_whole_never_exceed_it(a in 0u16..=10_000, whole: u64) {
            let (a, b) = (BasisPoints(a), BasisPoints(10_000 - a));
            prop_assert!(a.of(whole).checked_add(b.of(whole)).is_some_and(|sum| sum <= whole));
        }
    }
}
