//! Keys of noise, and what is derived from what.

use std::fmt;
use std::ops::Range;

use zeroize::{Zeroize, Zeroizing};

use super::secret::{KEY_BYTES, Secret, scrubbed};
use crate::error::{Error, Result};
use crate::session::Fingerprint;

/// The secret that the noise of a session is a function of: 256 bits, in one place, wiped when dropped.
///
/// Its `Debug` shows nothing of it. Only [`to_hex`](Self::to_hex) reads the bytes back.
#[derive(Clone)]
pub struct NoiseKey(Secret);

/// A secret that servers share, from which the keys of sessions are derived: 256 bits, in one place, wiped
/// when dropped.
#[derive(Clone)]
pub struct MasterKey(Secret);

/// What tells one [`NoiseKey`] from another without telling anything of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyCheck(blake3::Hash);

/// Proves that whoever has it was told by a holder of a [`NoiseKey`] that some lanes of its noise stood at
/// some step. It tells nothing of the key. Comparing two takes the same time wherever they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepProof(blake3::Hash);

impl StepProof {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Reads 32 bytes; `None` where there are not as many.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(<[u8; 32]>::try_from(bytes).ok()?.into()))
    }
}

const OF_NOISE: &str = "noised 2026 key of a noise from master key, noise_id and fingerprint";
const OF_TENANT_NOISE: &str =
    "noised 2026 key of a tenant's noise from master key, tenant, noise_id and fingerprint";
const OF_SEALS: &str = "noised 2026 seals of stored objects from master key";
const OF_CHECK: &str = "noised 2026 check of a noise key";
const OF_RESUMING: &str = "noised 2026 proofs of steps from a noise key";
const OF_DIGESTS: &str = "noised 2026 digests of released gradients from a noise key";

impl NoiseKey {
    /// A key of these bytes, which should come from the operating system's generator, or from nobody else
    /// than the person whose experiment it is.
    ///
    /// The array is wiped. A caller who kept a copy wipes that: [`from_slice`](Self::from_slice) takes none.
    pub fn from_bytes(mut bytes: [u8; KEY_BYTES]) -> Self {
        Self(taken(&mut bytes))
    }

    /// A key written as 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `field`, without the text.
    pub fn from_hex(field: &str, text: &str) -> Result<Self> {
        Secret::of_hex(text.as_bytes()).map(Self).ok_or_else(|| no_hex(field))
    }

    /// A key from 32 bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `field` where there are not 32, or all of them are zero: that is a buffer that
    /// nobody filled.
    pub fn from_slice(field: &str, bytes: &[u8]) -> Result<Self> {
        let rule = || Error::invalid(field, format!("must have 32 bytes, found {}", bytes.len()));
        let secret = Secret::of_slice(bytes).ok_or_else(rule)?;
        check_not_zero(field, &secret)?;
        Ok(Self(secret))
    }

    /// The key as 64 hexadecimal digits, for a place that keeps it as secret as it is here: a session that
    /// outlives its process needs it. The digits are wiped when they are dropped.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut digits = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
        for byte in self.0.bytes() {
            digits.extend(
                [byte >> 4, byte & 0xf].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')),
            );
        }
        digits
    }

    /// What can be compared and kept in place of the key.
    pub fn check(&self) -> KeyCheck {
        let mut check = [0; KEY_BYTES];
        self.derive(OF_CHECK, &mut check);
        KeyCheck(check.into())
    }

    /// Makes the key of the cipher at a step. What the derivation leaves on the stack is for the caller to
    /// [scrub](super::scrub_stack), once for all steps of a sweep.
    pub(super) fn of_step(&self, step: u64, subkey: &mut [u8; KEY_BYTES]) {
        let mut hash = blake3::Hasher::new_keyed(self.0.bytes());
        hash.update(&step.to_le_bytes());
        finish(&mut hash, subkey);
    }

    /// What only somebody can have who was told it by a holder of this key: that these lanes of the noise
    /// stood at `step`.
    pub fn proof_of_step(&self, step: u64, lanes: &Range<u64>) -> StepProof {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        self.derive(OF_RESUMING, &mut key);
        let mut hash = Zeroizing::new(blake3::Hasher::new_keyed(&key));
        for number in [step, lanes.start, lanes.end] {
            hash.update(&number.to_le_bytes());
        }
        StepProof(hash.finalize())
    }

    /// The key of digests that nobody without this key can make two gradients agree in.
    pub(crate) fn of_digests(&self) -> Box<Zeroizing<[u8; KEY_BYTES]>> {
        let mut key = Box::new(Zeroizing::new([0; KEY_BYTES]));
        self.derive(OF_DIGESTS, &mut key);
        key
    }

    fn derive(&self, context: &str, derived: &mut [u8; KEY_BYTES]) {
        scrubbed(|| {
            let mut hash = blake3::Hasher::new_derive_key(context);
            hash.update(self.0.bytes());
            finish(&mut hash, derived);
        });
    }
}

impl MasterKey {
    /// A master key of these bytes.
    ///
    /// The array is wiped. A caller who kept a copy wipes that.
    pub fn from_bytes(mut bytes: [u8; KEY_BYTES]) -> Self {
        Self(taken(&mut bytes))
    }

    /// A master key as files hold it: 32 bytes, or 64 hexadecimal digits and white space.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `field`, without what was read.
    pub fn parse(field: &str, content: &[u8]) -> Result<Self> {
        let digits = content.trim_ascii();
        let key = match (content.len(), digits.len()) {
            (KEY_BYTES, _) => Secret::of_slice(content),
            (_, 64) => Secret::of_hex(digits),
            (found, _) => {
                let rule = format!("must be 32 bytes, or 64 hexadecimal digits; found {found} bytes");
                return Err(Error::invalid(field, rule));
            }
        };
        let key = key.ok_or_else(|| {
            Error::invalid(field, "must be 32 bytes, or 64 hexadecimal digits; found a byte that is no digit")
        })?;
        check_not_zero(field, &key)?;
        Ok(Self(key))
    }

    /// A secret to seal what is stored with, of which nothing about the noise follows.
    pub fn sealing_secret(&self) -> Box<Zeroizing<[u8; KEY_BYTES]>> {
        let mut secret = Box::<Zeroizing<[u8; KEY_BYTES]>>::default();
        scrubbed(|| {
            let mut hash = blake3::Hasher::new_derive_key(OF_SEALS);
            hash.update(self.0.bytes());
            finish(&mut hash, &mut secret);
        });
        secret
    }

    /// The key of the noise `noise_id` of a session.
    ///
    /// `fingerprint` is that of the whole tree's session, so that every shard gets the same key, and the same
    /// `noise_id` with another matrix, tree, source, stddev, precision or horizon gives a noise that is
    /// independent of it.
    pub fn derive(&self, noise_id: &str, fingerprint: &Fingerprint) -> NoiseKey {
        NoiseKey(Secret::filled(|key| {
            let mut hash = blake3::Hasher::new_derive_key(OF_NOISE);
            hash.update(self.0.bytes());
            hash.update(fingerprint.as_bytes());
            hash.update(noise_id.as_bytes());
            finish(&mut hash, key);
        }))
    }
}

/// The keys of noises that a [`MasterKey`] gives to one tenant. Tenants that use the same `noise_id` get
/// noises that are independent of each other.
#[derive(Clone, Copy, Debug)]
pub struct TenantKeys<'a> {
    master: &'a MasterKey,
    tenant: &'a str,
}

impl MasterKey {
    /// The keys for one tenant, by its name. The empty name is that of the default tenant, whose keys are
    /// those of [`derive`](Self::derive).
    pub fn of_tenant<'a>(&'a self, tenant: &'a str) -> TenantKeys<'a> {
        TenantKeys { master: self, tenant }
    }
}

impl TenantKeys<'_> {
    /// The key of the noise `noise_id` of a session: see [`MasterKey::derive`].
    pub fn derive(&self, noise_id: &str, fingerprint: &Fingerprint) -> NoiseKey {
        let Self { master, tenant } = self;
        if tenant.is_empty() {
            return master.derive(noise_id, fingerprint);
        }
        NoiseKey(Secret::filled(|key| {
            let mut hash = blake3::Hasher::new_derive_key(OF_TENANT_NOISE);
            hash.update(master.0.bytes());
            hash.update(fingerprint.as_bytes());
            // The length comes first, so that no tenant and noise_id together read as another pair.
            hash.update(&(tenant.len() as u64).to_le_bytes());
            hash.update(tenant.as_bytes());
            hash.update(noise_id.as_bytes());
            finish(&mut hash, key);
        }))
    }
}

/// Writes the end of a hash to where it belongs, and wipes the hash, which has parts of a key.
fn finish(hash: &mut blake3::Hasher, output: &mut [u8; KEY_BYTES]) {
    let mut reader = hash.finalize_xof();
    reader.fill(output);
    reader.zeroize();
    hash.zeroize();
}

/// A secret of these bytes, which are wiped.
fn taken(bytes: &mut [u8; KEY_BYTES]) -> Secret {
    let secret = Secret::filled(|place| place.copy_from_slice(bytes));
    bytes.zeroize();
    secret
}

fn check_not_zero(field: &str, secret: &Secret) -> Result<()> {
    if secret.is_zero() { Err(Error::invalid(field, "must not be all zero")) } else { Ok(()) }
}

fn no_hex(field: &str) -> Error {
    Error::invalid(field, "must be 64 hexadecimal digits")
}

/// The bytes of a key that is written as 64 hexadecimal digits.
///
/// # Errors
/// [`Error::Invalid`] on `field`, without the text.
pub fn key_from_hex(field: &str, text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>> {
    let secret = Secret::of_hex(text.as_bytes()).ok_or_else(|| no_hex(field))?;
    Ok(Zeroizing::new(*secret.bytes()))
}

impl fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseKey(..)")
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}
