//! The noise as a function of key, step and lane, whatever draws it.

use super::*;
use crate::kernel::{Backend, Real};

fn key() -> NoiseKey {
    NoiseKey::from_bytes(std::array::from_fn(|i| i as u8))
}

fn drawn<T: Real>(backend: Backend, step: u64, first_lane: u64, lanes: usize) -> Vec<T> {
    let mut values = vec![T::default(); lanes];
    backend.draw(&StepNoise::new(&key(), step, 1.0), first_lane, &mut values);
    values
}

/// Every instruction set, from any lane, in runs of any length.
#[test]
fn bits_depend_on_key_step_and_lane_alone() {
    fn check<T: Real>(format: &str) {
        let whole: Vec<T> = drawn(Backend::REFERENCE, 3, 0, 5000);
        for backend in Backend::available() {
            for (first, lanes) in
                [(0, 5000), (0, 1), (1, 31), (31, 33), (32, 1024), (1000, 1056), (1023, 2), (4999, 1)]
            {
                let part: Vec<T> = drawn(backend, 3, first as u64, lanes);
                assert!(part == whole[first..first + lanes], "{format} lanes {first}..+{lanes} on {backend}");
            }
        }
        assert!(whole != drawn::<T>(Backend::REFERENCE, 4, 0, 5000));
    }
    check::<f32>("f32");
    check::<f64>("f64");
}

/// Lanes far out, where a counter of 32 bits would have gone round.
#[test]
fn lanes_do_not_come_again() {
    let near: Vec<f32> = drawn(Backend::best(), 0, 0, 64);
    for first in [1 << 32, 1 << 34, 1 << 35, (1 << 40) - 64] {
        assert!(near != drawn::<f32>(Backend::best(), 0, first, 64));
    }
}

#[test]
fn a_stddev_of_zero_is_exact() {
    let mut values = [1.0_f32; 70];
    Backend::best().draw(&StepNoise::new(&key(), 0, 0.0), 0, &mut values);
    assert!(values.iter().all(|value| value.to_bits() == 0));
}

/// Bits that must never change.
#[test]
fn golden_values() {
    let found: Vec<u32> =
        drawn::<f32>(Backend::REFERENCE, 5, 1_000_000_007, 4).iter().map(|z| z.to_bits()).collect();
    assert_eq!(found, [0x3e8f_8438, 0xbf4c_8cc5, 0x3f3a_ae5c, 0x3f76_3b64], "{found:#010x?}");
    let found: Vec<u64> =
        drawn::<f64>(Backend::REFERENCE, 5, 1_000_000_007, 4).iter().map(|z| z.to_bits()).collect();
    assert_eq!(
        found,
        [0x3fdc_f327_e783_183c, 0xbfe4_9d78_15ac_a335, 0xbfe3_9479_bb49_540f, 0xbfda_f56f_e946_53e6],
        "{found:#018x?}"
    );
}

#[test]
fn keys_tell_nothing() {
    let (noise, master) = (key(), MasterKey::from_bytes([0xab; 32]));
    assert_eq!(format!("{noise:?} {master:?}"), "NoiseKey(..) MasterKey(..)");
    assert!(!format!("{:?}", StepNoise::new(&noise, 0, 1.0)).contains("ab"));
}

#[test]
fn keys_are_read_and_refused() {
    let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    assert_eq!(NoiseKey::from_hex("noise_key_hex", hex).unwrap().check(), key().check());
    assert_eq!(NoiseKey::from_hex("noise_key_hex", &hex.to_uppercase()).unwrap().check(), key().check());
    for bad in ["", "00", &hex[1..], &format!("{hex}00"), &hex.replace('f', "g"), &"é".repeat(32)] {
        let error = NoiseKey::from_hex("noise_key_hex", bad).unwrap_err().to_string();
        assert_eq!(error, "noise_key_hex: must be 64 hexadecimal digits");
    }
    for bad in [&[1; 31][..], &[1; 33], &[0; 32], &[]] {
        assert!(NoiseKey::from_slice("noise_key", bad).is_err());
    }
    for content in [&[7; 32][..], format!("{}\n", "07".repeat(32)).as_bytes()] {
        let fingerprint = crate::SessionSpec::new(
            crate::MatrixSpec::Identity,
            crate::Tree::flat(1, crate::DType::F32).unwrap(),
        )
        .resolve()
        .unwrap()
        .fingerprint();
        let master = MasterKey::parse("master_key_file", content).unwrap();
        let expected = MasterKey::from_bytes([7; 32]).derive("a", &fingerprint).check();
        assert_eq!(master.derive("a", &fingerprint).check(), expected);
        assert_ne!(master.derive("b", &fingerprint).check(), expected);
    }
    let fingerprint = crate::SessionSpec::new(
        crate::MatrixSpec::Identity,
        crate::Tree::flat(1, crate::DType::F32).unwrap(),
    )
    .resolve()
    .unwrap()
    .fingerprint();
    let master = MasterKey::from_bytes([7; 32]);
    let of = |tenant: &str, noise_id: &str| master.of_tenant(tenant).derive(noise_id, &fingerprint).check();
    assert_eq!(of("", "a"), master.derive("a", &fingerprint).check(), "the default tenant's keys stay");
    let others = [of("one", "a"), of("two", "a"), of("on", "ea"), of("onea", ""), of("", "onea")];
    for (i, one) in others.iter().enumerate() {
        assert!(others[..i].iter().all(|other| other != one) && *one != of("", "a"));
    }
    for bad in [&[7; 31][..], b"", b"not a key at all", &[0xff; 64], &[0; 32], "00".repeat(32).as_bytes()] {
        assert!(MasterKey::parse("master_key_file", bad).is_err());
    }
}
