//! The hot swap in every order in which threads can meet: the session's own code, with loom's locks.

use loom::thread;

mod sync {
    pub(crate) use loom::sync::{Arc, RwLock};
    pub(crate) use std::sync::PoisonError;
}
#[path = "../../src/runtime/slot.rs"]
mod slot;

use slot::Slot;
use sync::{Arc, RwLock};

/// What a prediction reads of a generation: that all parts are of one number is what is to be shown.
#[derive(Clone, Copy)]
struct Generation {
    number: u64,
    factors: u64,
    labels: u64,
}

fn generation(number: u64) -> Generation {
    Generation { number, factors: number * 10, labels: number * 100 }
}

/// Goes through every order of the threads in which none of them is interrupted more than three times.
fn in_every_order(story: impl Fn() + Sync + Send + 'static) {
    let mut orders = loom::model::Builder::new();
    orders.preemption_bound = Some(3);
    orders.check(story);
}

/// A prediction on one thread and two on another, beside two swaps; `predict` says what a prediction is made of.
fn serve(predict: fn(&Slot<Generation>) -> Generation) {
    in_every_order(move || {
        let slot = Arc::new(Slot::new(generation(0)));
        let readers = [1, 2].map(|predictions| {
            let slot = slot.clone();
            thread::spawn(move || {
                let mut last = 0;
                for _ in 0..predictions {
                    let used = predict(&slot);
                    assert_eq!((used.factors, used.labels), (used.number * 10, used.number * 100), "mixed");
                    assert!(used.number >= last, "an older generation answers again");
                    last = used.number;
                }
            })
        });
        for number in 1..=2 {
            assert_eq!(slot.put(generation(number)).number, number);
        }
        assert_eq!(predict(&slot).number, 2, "the next prediction uses the new one");
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn no_prediction_mixes_two_generations() {
    serve(|slot| {
        let serving = slot.get();
        Generation { number: serving.number, factors: serving.factors, labels: serving.labels }
    });
}

/// The test can fail: a prediction that asks twice is caught.
#[test]
#[should_panic(expected = "mixed")]
fn a_prediction_that_asks_twice_is_caught() {
    serve(|slot| Generation { labels: slot.get().labels, ..*slot.get() });
}

/// And so is a swap that replaces the parts one after the other.
#[test]
#[should_panic(expected = "mixed")]
fn a_swap_in_two_steps_is_caught() {
    in_every_order(|| {
        let parts = Arc::new((RwLock::new(0), RwLock::new(0)));
        let reader = {
            let parts = parts.clone();
            thread::spawn(move || {
                let (number, factors) = (*parts.0.read().unwrap(), *parts.1.read().unwrap());
                assert_eq!(factors, number * 10, "mixed");
            })
        };
        *parts.0.write().unwrap() = 1;
        *parts.1.write().unwrap() = 10;
        reader.join().unwrap();
    });
}
