//! Handles: a place in a table and the generation of what lies there.
//!
//! Owns: which handles are good. A handle is good from [`Handles::insert`] to [`Handles::remove`] and never again:
//! its generation is not given out twice. Never here: locks, pointers. Start with [`Handles`].

use std::sync::Arc;

/// Open at once at most. Each holds a mapping, of which Linux allows a process 65,530 (`vm.max_map_count`); a host
/// that reaches this limit has forgotten to close.
pub const OPEN_MAX: usize = 1024;

/// The open values by handle. A handle is never 0.
#[derive(Debug)]
pub struct Handles<T> {
    places: Vec<Place<T>>,
    /// Places without a value, to be used again.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    /// From 1 on, so that no handle is 0.
    generation: u32,
    value: Option<Arc<T>>,
}

impl<T> Handles<T> {
    pub const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    /// How many values are open.
    pub const fn len(&self) -> usize {
        // A place that was used up is neither free nor filled, 2^32 openings later; the count is then one too high.
        self.places.len().saturating_sub(self.free.len())
    }

    /// Takes a value in; `None` where [`OPEN_MAX`] are open.
    pub fn insert(&mut self, value: Arc<T>) -> Option<u64> {
        if let Some(at) = self.free.pop() {
            let place = self.places.get_mut(at as usize)?;
            place.value = Some(value);
            return Some(handle(place.generation, at));
        }
        if self.places.len() >= OPEN_MAX {
            return None;
        }
        let at = u32::try_from(self.places.len()).ok()?;
        self.places.push(Place {
            generation: 1,
            value: Some(value),
        });
        Some(handle(1, at))
    }

    /// The value of a good handle.
    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        let (generation, at) = parts(handle);
        let place = self.places.get(at as usize)?;
        place
            .value
            .clone()
            .filter(|_| place.generation == generation)
    }

    /// Ends a good handle and gives its value out, to be dropped by the caller.
    pub fn remove(&mut self, handle: u64) -> Option<Arc<T>> {
        let (generation, at) = parts(handle);
        let place = self.places.get_mut(at as usize)?;
        if place.generation != generation {
            return None;
        }
        let value = place.value.take()?;
        // A place whose generations are used up stays empty: no handle comes twice.
        if let Some(next) = generation.checked_add(1) {
            place.generation = next;
            self.free.push(at);
        }
        Some(value)
    }
}

fn handle(generation: u32, at: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(at)
}

/// Generation and place; both halves fit exactly.
fn parts(handle: u64) -> (u32, u32) {
    ((handle >> 32) as u32, handle as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn an_ended_handle_stays_bad_when_its_place_is_used_again() {
        let mut handles = Handles::new();
        let first = handles.insert(Arc::new(1)).unwrap();
        assert_eq!(handles.remove(first).as_deref(), Some(&1));
        let second = handles.insert(Arc::new(2)).unwrap();
        assert_eq!(parts(first).1, parts(second).1);
        assert_eq!(handles.get(first), None);
        assert_eq!(handles.remove(first), None);
        assert_eq!(handles.get(second).as_deref(), Some(&2));
    }

    #[test]
    fn a_used_up_place_is_not_used_again() {
        let mut handles = Handles::new();
        handles.insert(Arc::new(0)).unwrap();
        handles.places[0].generation = u32::MAX;
        let last = handle(u32::MAX, 0);
        assert!(handles.remove(last).is_some());
        assert_eq!(handles.get(last), None);
        assert_eq!(parts(handles.insert(Arc::new(1)).unwrap()), (1, 1));
    }

    #[test]
    fn the_limit_refuses_and_room_comes_back() {
        let mut handles = Handles::new();
        let all: Vec<u64> = (0..OPEN_MAX)
            .map(|n| handles.insert(Arc::new(n)).unwrap())
            .collect();
        assert_eq!(handles.insert(Arc::new(0)), None);
        handles.remove(all[7]).unwrap();
        assert!(handles.insert(Arc::new(0)).is_some());
    }

    proptest! {
        #[test]
        fn the_table_is_a_map_that_forgets(steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..200)) {
            let mut handles = Handles::new();
            let mut model = HashMap::new();
            let mut given = vec![0];
            for (step, (open, pick)) in steps.into_iter().enumerate() {
                if open {
                    let handle = handles.insert(Arc::new(step)).unwrap();
                    prop_assert!(!given.contains(&handle));
                    given.push(handle);
                    model.insert(handle, step);
                } else {
                    let handle = given[pick % given.len()];
                    prop_assert_eq!(handles.remove(handle).as_deref().copied(), model.remove(&handle));
                }
            }
            for handle in given {
                prop_assert_eq!(handles.get(handle).as_deref().copied(), model.get(&handle).copied());
            }
        }
    }
}
