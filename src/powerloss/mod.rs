//! Power cuts at every operation of a profile's life, on a simulated disk, and again while the profile recovers from them.

#[cfg(feature = "bundles")]
mod carry;
mod oracle;
mod scenario;
mod wear;

use oracle::Expected;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scenario::{Story, live, move_in};

use crate::cipher::{Cipher, Key};
use crate::disk::fault_injection::{Bug, with};
use crate::disk::simulated::{SimulatedDisk, Step};
use crate::disk::storage::Storage;
use crate::error::Result;

/// Damage seeds an operation in the test that always runs.
const SEEDS: u64 = 64;

#[derive(Debug, Default)]
struct Tally {
    /// Operations, and promises between them.
    places: u64,
    images: u64,
}

/// Cuts the power at every operation of a life and right after every promise, `seeds` times each, and once more at some
/// operation of each recovery; and kills the process there, and cuts the power in the next one, a quarter as often.
///
/// # Errors
/// The first violation, and where.
fn examine(seeds: u64, life: impl Fn(&Story) -> Result<()>) -> std::result::Result<Tally, String> {
    examine_with(None, seeds, life)
}

/// As [`examine`], of an encrypted profile, where there is a cipher.
fn examine_with(
    cipher: Option<Cipher>,
    seeds: u64,
    life: impl Fn(&Story) -> Result<()>,
) -> std::result::Result<Tally, String> {
    let story = Story::with(cipher.clone(), SimulatedDisk::default());
    let lived = life(&story);
    let (facts, mut tally) = (story.facts(), Tally::default());
    let (mut storage, mut expected) = (Storage::default(), Expected::default());
    for (at, step) in story.disk.log().iter().enumerate() {
        // A sync that is cut off promises nothing yet.
        let before = matches!(step, Step::Sync(_) | Step::SyncFolder(_)).then(|| storage.clone());
        match step {
            Step::Said(fact) => {
                expected.hear(&facts[*fact]);
                if !facts[*fact].is_promise() {
                    continue;
                }
            }
            step => storage.follow(step),
        }
        tally.places += 1;
        for seed in 0..seeds {
            let image = before.as_ref().unwrap_or(&storage).cut(at, seed);
            let place = |e: String| format!("step {at} ({step}), seed {seed}: {e}");
            let recovery = Story::with(cipher.clone(), SimulatedDisk::holding(image.clone()));
            expected.check(&recovery).map_err(place)?;
            cut_again(&expected, Storage::holding(image), &recovery, (at as u64) << 32 | seed).map_err(place)?;
            tally.images += 2;
        }
        killed(&cipher, &expected, before.as_ref().unwrap_or(&storage), at, seeds.div_ceil(4))
            .map_err(|e| format!("step {at} ({step}), killed there: {e}"))?;
        tally.images += seeds.div_ceil(4);
    }
    // Last, since a planted bug that makes it fail is to be found by the power cuts before.
    lived.map_err(|e| format!("the life itself fails: {e:?}"))?;
    Ok(tally)
}

/// The process is killed and the disk stays as it is, so that what was not synced is seen, and still not durable: the next
/// process goes on with it, and the power is cut at some operation of that one, `cuts` times.
fn killed(
    cipher: &Option<Cipher>,
    expected: &Expected,
    storage: &Storage,
    at: usize,
    cuts: u64,
) -> std::result::Result<(), String> {
    let next = Story::with(cipher.clone(), SimulatedDisk::going_on(storage.seen(), storage.next_file()));
    expected.check(&next)?;
    (0..cuts).try_for_each(|seed| cut_again(expected, storage.clone(), &next, (at as u64) << 32 | 1 << 31 | seed))
}

/// A second power cut, at some operation of the recovery from the first.
fn cut_again(
    expected: &Expected,
    mut storage: Storage,
    recovery: &Story,
    seed: u64,
) -> std::result::Result<(), String> {
    let (log, facts, mut expected) = (recovery.disk.log(), recovery.facts(), expected.clone());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let end = rng.random_range(0..=log.len());
    for step in &log[..end] {
        match step {
            Step::Said(fact) => expected.hear(&facts[*fact]),
            step => storage.follow(step),
        }
    }
    let again = recovery.again(SimulatedDisk::holding(storage.cut(end, rng.random_range(0..64))));
    expected.check(&again).map_err(|e| format!("and again at step {end} of the recovery: {e}"))
}

#[test]
fn no_power_cut_loses_what_was_acknowledged() {
    let tally = examine(SEEDS, live).unwrap();
    println!("{} power cuts at {} places, no violation", tally.images, tally.places);
    assert!(tally.images >= 100_000, "{tally:?}");
}

#[test]
fn no_power_cut_loses_the_journal_of_an_older_version() {
    for old in [
        &include_bytes!("../../tests/fixtures/journal-v1.bin")[..],
        include_bytes!("../../tests/fixtures/journal-v2.bin"),
    ] {
        let tally = examine(SEEDS, |story| move_in(story, old)).unwrap();
        println!("{} power cuts at {} places, no violation", tally.images, tally.places);
    }
}

#[test]
fn an_encrypted_profile_survives_them_too_and_is_never_in_the_clear() {
    let cipher = Cipher::new(&Key::of([7; 32]), "ada");
    let tally = examine_with(Some(cipher), 1, live).unwrap();
    println!("{} power cuts at {} places, no violation", tally.images, tally.places);
    assert!(tally.images >= 1900, "{tally:?}");
}

#[test]
#[cfg(feature = "bundles")]
fn no_power_cut_leaves_a_part_of_a_bundle_or_of_an_imported_profile() {
    for cipher in [None, Some(Cipher::new(&Key::of([7; 32]), "ada"))] {
        let tally = examine_with(cipher, 16, carry::carry).unwrap();
        println!("{} power cuts at {} places, no violation", tally.images, tally.places);
        assert!(tally.images >= 4000, "{tally:?}");
    }
}

/// By hand, with as many seeds as `ACCLIMATE_SEEDS` says.
#[test]
#[ignore = "takes long; ACCLIMATE_SEEDS=1000 for 1000 seeds an operation"]
fn many_more_power_cuts() {
    let seeds = std::env::var("ACCLIMATE_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1000);
    println!("{:?}", examine(seeds, live).unwrap());
}

/// Cuts the power in every kind of life.
fn lives(seeds: u64) -> std::result::Result<(), String> {
    examine(seeds, live)?;
    #[cfg(feature = "bundles")]
    examine(seeds, carry::carry)?;
    Ok(())
}

#[test]
fn every_planted_bug_is_found() {
    // Without bundles nothing is imported.
    let missed: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| cfg!(feature = "bundles") || *bug != Bug::ImportNotSynced)
        .filter(|bug| match with(Some(*bug), || lives(16)) {
            Ok(_) => {
                println!("{bug:?}: MISSED");
                true
            }
            Err(how) => {
                println!("{bug:?}: {how}");
                false
            }
        })
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
