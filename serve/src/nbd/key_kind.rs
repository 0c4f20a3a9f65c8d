//! The kind of a key, from its DER encoding, so that a person is told which keys do not work here.
//!
//! It knows just enough of ASN.1 to find the algorithm: elements with lengths, one inside another;
//! and enough of it to write anew what GnuTLS writes in a form of its own.

use std::fmt;

use rustls::pki_types::{PrivateKeyDer, PrivateSec1KeyDer};

/// The keys that TLS takes here, in words.
pub(super) const WORKING_KEYS: &str = "keys that work: RSA of 2048 to 8192 bits (the server's own: \
                                       to 4096), ECDSA on P-256 or P-384, Ed25519";
const RSA_BITS_MIN: usize = 2048;
/// With longer ones nothing is verified.
const RSA_BITS_MAX: usize = 8192;
/// With longer ones nothing is signed.
const OWN_RSA_BITS_MAX: usize = 4096;
const WORKING_CURVES: [&str; 2] = ["P-256", "P-384"];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
/// The curve in a key of SEC 1: `[0]`.
const CURVE: u8 = 0xa0;

/// The algorithms that certificates are made with, by the content of their object identifiers.
const ALGORITHMS: [(&[u8], &str); 6] = [
    (RSA, "RSA"),
    (EC, "ECDSA"),
    (&[0x2b, 0x65, 0x70], "Ed25519"),
    (&[0x2b, 0x65, 0x71], "Ed448"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "DSA"),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a],
        "RSA-PSS",
    ),
];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// With the length of a secret, for those that TLS takes.
const SECRET_LENS: [(&str, usize); 3] = [("P-256", 32), ("P-384", 48), ("P-521", 66)];
const CURVES: [(&[u8], &str); 5] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], "P-256"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], "P-384"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "P-521"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01], "P-192"),
];

/// A key's algorithm, and what else decides whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// So many bits, if that could be found out.
    Rsa(Option<usize>),
    /// On this curve.
    Ecdsa(&'static str),
    /// A name that says it all.
    Other(&'static str),
}

impl fmt::Display for KeyKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(Some(bits)) => write!(out, "RSA of {bits} bits"),
            Self::Rsa(None) => write!(out, "RSA"),
            Self::Ecdsa(curve) => write!(out, "ECDSA on {curve}"),
            Self::Other(name) => write!(out, "{name}"),
        }
    }
}

impl KeyKind {
    /// True if the server can sign with it.
    pub(super) fn can_sign(&self) -> bool {
        self.can_verify() && !matches!(self, Self::Rsa(Some(bits)) if *bits > OWN_RSA_BITS_MAX)
    }

    /// True if what others sign with it can be verified. What is not known is for the library to
    /// judge.
    pub(super) fn can_verify(&self) -> bool {
        match self {
            Self::Rsa(bits) => {
                bits.is_none_or(|bits| (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits))
            }
            Self::Ecdsa(curve) => WORKING_CURVES.contains(curve),
            Self::Other(name) => ["Ed25519", "unknown"].contains(name),
        }
    }

    /// The kind of a private key.
    pub(super) fn of_private(key: &PrivateKeyDer<'_>) -> Self {
        let found = match key {
            PrivateKeyDer::Pkcs1(key) => Some(Self::Rsa(rsa_bits(key.secret_pkcs1_der()))),
            PrivateKeyDer::Sec1(key) => parse_sec1(key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => parse_pkcs8(key.secret_pkcs8_der()),
            _ => None,
        };
        found.unwrap_or(Self::Other("unknown"))
    }

    /// The kind of a public key, as a certificate holds it (`SubjectPublicKeyInfo`).
    pub(super) fn of_public(info: &[u8]) -> Self {
        parse_public_key(info).unwrap_or(Self::Other("unknown"))
    }
}

/// The element at the start of `bytes`, if it is of this kind: its content, and what follows.
fn der_element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let shift = |sum: usize, byte: &u8| Some(sum.checked_mul(256)? + usize::from(*byte));
        (len.iter().try_fold(0, shift)?, rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    (*found == tag).then_some((content, rest))
}

fn parse_public_key(info: &[u8]) -> Option<KeyKind> {
    let (info, _) = der_element(info, SEQUENCE)?;
    let (algorithm, rest) = der_element(info, SEQUENCE)?;
    let (key, _) = der_element(rest, BIT_STRING)?;
    // One byte says how many bits of the last are not used.
    let modulus = || {
        Some(bit_len(
            der_element(der_element(key.get(1..)?, SEQUENCE)?.0, INTEGER)?.0,
        ))
    };
    algorithm_kind(algorithm, modulus)
}

fn parse_pkcs8(key: &[u8]) -> Option<KeyKind> {
    let (key, _) = der_element(key, SEQUENCE)?;
    let (_version, rest) = der_element(key, INTEGER)?;
    let (algorithm, rest) = der_element(rest, SEQUENCE)?;
    let (key, _) = der_element(rest, OCTET_STRING)?;
    algorithm_kind(algorithm, || rsa_bits(key))
}

fn parse_sec1(key: &[u8]) -> Option<KeyKind> {
    let (key, _) = der_element(key, SEQUENCE)?;
    let (_version, rest) = der_element(key, INTEGER)?;
    let (_secret, rest) = der_element(rest, OCTET_STRING)?;
    let (curve, _) = der_element(rest, CURVE)?;
    Some(KeyKind::Ecdsa(curve_of(curve)))
}

/// The length of the modulus in an RSA private key.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let (key, _) = der_element(key, SEQUENCE)?;
    let (_version, rest) = der_element(key, INTEGER)?;
    Some(bit_len(der_element(rest, INTEGER)?.0))
}

fn algorithm_kind(algorithm: &[u8], modulus: impl Fn() -> Option<usize>) -> Option<KeyKind> {
    let (id, parameters) = der_element(algorithm, OBJECT)?;
    let name = ALGORITHMS.iter().find(|(known, _)| *known == id)?.1;
    Some(match id {
        RSA => KeyKind::Rsa(modulus()),
        EC => KeyKind::Ecdsa(curve_of(parameters)),
        _ => KeyKind::Other(name),
    })
}

/// The same key with a secret of its curve's length, as the standard asks for. GnuTLS's certtool
/// writes it as a number: with a zero before it in half of all keys, and one byte less in some.
pub(super) fn with_whole_secret(key: PrivateKeyDer<'static>) -> PrivateKeyDer<'static> {
    let PrivateKeyDer::Sec1(sec1) = &key else {
        return key;
    };
    match rewrite_sec1(sec1.secret_sec1_der()) {
        Some(written) => PrivateSec1KeyDer::from(written).into(),
        None => key,
    }
}

fn rewrite_sec1(key: &[u8]) -> Option<Vec<u8>> {
    let (key, _) = der_element(key, SEQUENCE)?;
    let (version, rest) = der_element(key, INTEGER)?;
    let (secret, rest) = der_element(rest, OCTET_STRING)?;
    let curve = curve_of(der_element(rest, CURVE)?.0);
    let len = SECRET_LENS.iter().find(|(name, _)| *name == curve)?.1;
    let zeros = secret.iter().take_while(|byte| **byte == 0).count();
    let significant = &secret[zeros..];
    let padding = vec![0; len.checked_sub(significant.len())?];
    let secret = wrapped(OCTET_STRING, &[&padding, significant])?;
    wrapped(SEQUENCE, &[&wrapped(INTEGER, &[version])?, &secret, rest])
}

/// An element with this content, if that is no longer than a key.
fn wrapped(tag: u8, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).ok()?.to_be_bytes();
    let head = match (high, low) {
        (0, ..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    Some([head, content].concat())
}

fn curve_of(parameters: &[u8]) -> &'static str {
    let known = der_element(parameters, OBJECT)
        .and_then(|(id, _)| CURVES.iter().find(|(known, _)| *known == id));
    known.map_or("an unknown curve", |(_, name)| name)
}

fn bit_len(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let rest = &number[zeros..];
    rest.first()
        .map_or(0, |first| rest.len() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        super::wrapped(tag, parts).expect("it is short")
    }

    fn info(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
        let algorithm = wrapped(SEQUENCE, &[&wrapped(OBJECT, &[algorithm]), parameters]);
        wrapped(SEQUENCE, &[&algorithm, &wrapped(BIT_STRING, &[&[0], key])])
    }

    #[test]
    fn public_keys_are_known_by_their_algorithm_curve_and_length() {
        let curve = |nth: usize| wrapped(OBJECT, &[CURVES[nth].0]);
        let modulus = [&[0x00, 0xff][..], &[7; 1023]].concat();
        let rsa = wrapped(SEQUENCE, &[&wrapped(INTEGER, &[&modulus])]);
        for (info, shown) in [
            (info(EC, &curve(2), b"key"), "ECDSA on P-521"),
            (info(EC, &curve(3), b"key"), "ECDSA on secp256k1"),
            (info(EC, b"", b"key"), "ECDSA on an unknown curve"),
            (info(&[0x2b, 0x65, 0x71], b"", b"key"), "Ed448"),
            (info(RSA, &[5, 0], &rsa), "RSA of 8192 bits"),
            (info(RSA, &[5, 0], b"nonsense"), "RSA"),
            (info(&[1, 2, 3], b"", b"key"), "unknown"),
            (Vec::new(), "unknown"),
        ] {
            assert_eq!(KeyKind::of_public(&info).to_string(), shown);
        }
    }

    #[test]
    fn a_secret_gets_the_length_of_its_curve() {
        let key = |secret: &[u8]| {
            let curve = wrapped(CURVE, &[&wrapped(OBJECT, &[CURVES[0].0])]);
            let parts = [
                &wrapped(INTEGER, &[&[1]]),
                &wrapped(OCTET_STRING, &[secret]),
                &curve,
            ];
            wrapped(SEQUENCE, &parts.map(Vec::as_slice))
        };
        let whole = key(&[[0; 1].as_slice(), &[9; 31]].concat());
        for secret in [
            &[9; 31][..],
            &[[0; 1].as_slice(), &[9; 31]].concat(),
            &[[0; 5].as_slice(), &[9; 31]].concat(),
        ] {
            assert_eq!(rewrite_sec1(&key(secret)), Some(whole.clone()));
        }
        assert_eq!(
            rewrite_sec1(&key(&[9; 33])),
            None,
            "no secret of this curve"
        );
        (0..whole.len()).for_each(|len| assert_eq!(rewrite_sec1(&whole[..len]), None));
    }

    #[test]
    fn no_bytes_break_it() {
        let whole = info(EC, &wrapped(OBJECT, &[CURVES[0].0]), b"key");
        for at in 0..whole.len() {
            let _ = KeyKind::of_public(&whole[..at]);
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = KeyKind::of_public(&changed);
            }
        }
        assert_eq!(der_element(&[SEQUENCE, 0xff], SEQUENCE), None);
        assert_eq!(
            der_element(
                &[[SEQUENCE, 0x89].as_slice(), &[0xff; 9]].concat(),
                SEQUENCE
            ),
            None
        );
    }
}
