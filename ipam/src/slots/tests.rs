//! Slots of large and small ranges.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_range_of_two_to_the_sixty_four_costs_nothing_until_used() {
    let mut slots = Slots::new(1 << 64);
    assert!(matches!(slots.shape, Shape::Runs(_)));
    for slot in 0..1000 {
        slots.write(slot, true);
    }
    let Shape::Runs(runs) = &slots.shape else { panic!("not runs") };
    assert_eq!(runs.len(), 1);
    assert_eq!(slots.next_clear(0), Some(1000));
    assert_eq!(slots.next_clear((1 << 64) - 1), Some((1 << 64) - 1));
}

#[test]
fn the_last_slot_of_a_bitmap_is_found_and_nothing_after_it() {
    let mut slots = Slots::new(70);
    for slot in 0..69 {
        slots.write(slot, true);
    }
    assert_eq!(slots.next_clear(0), Some(69));
    slots.write(69, true);
    assert_eq!(slots.next_clear(0), None);
    assert!(slots.is_full());
}

#[test]
fn writing_twice_counts_once() {
    let mut slots = Slots::new(4);
    slots.write(1, true);
    slots.write(1, true);
    assert_eq!(slots.set, 1);
    slots.write(1, false);
    slots.write(1, false);
    assert_eq!(slots.set, 0);
}

proptest! {
    #[test]
    fn both_shapes_agree_with_a_plain_set(
        large in any::<bool>(),
        steps in prop::collection::vec((0u128..150, any::<bool>()), 0..300),
        from in 0u128..150,
    ) {
        let size = if large { BITMAP_LIMIT + 1 } else { 150 };
        let mut slots = Slots::new(size);
        let mut model = BTreeSet::new();
        for (slot, set) in steps {
            slots.write(slot, set);
            if set { model.insert(slot); } else { model.remove(&slot); }
            prop_assert_eq!(slots.set, model.len() as u128);
        }
        for slot in 0..150 {
            prop_assert_eq!(slots.is_set(slot), model.contains(&slot));
        }
        let expected = (from..size).find(|slot| !model.contains(slot));
        prop_assert_eq!(slots.next_clear(from), expected);
    }
}
