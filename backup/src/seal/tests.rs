//! Seals under attack: every bit, every mix-up of objects, kinds, repositories and keys.

use vellum_core::identity::RepositoryId;

use super::{
    Bundle, KeyError, KeyFile, KeyRole, Opener, PLAIN_LEN_MAX, PasswordCost, SealError, SealedKind,
    Sealer, Secrets, bundle_parts, create_key, create_key_of, key_info, padded_len, unenveloped,
    unlock, unlock_any,
};
use crate::format::RepositoryFile;
use crate::objects::memory::Memory;
use crate::objects::{ObjectId, ObjectName, Objects};

const ID: RepositoryId = RepositoryId([7; 16]);
const COST: PasswordCost = PasswordCost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};
const KINDS: [SealedKind; 5] = [
    SealedKind::Pack,
    SealedKind::Index,
    SealedKind::Maps,
    SealedKind::Record,
    SealedKind::IndexParts,
];

fn secrets() -> Secrets {
    Secrets::generate().expect("random bytes")
}

fn sealers() -> [Sealer; 2] {
    [Sealer::plain(ID), Sealer::encrypted(ID, &secrets())]
}

fn password(text: &str) -> Opener {
    Opener::Password(text.to_owned().into())
}

fn repository() -> RepositoryFile {
    RepositoryFile {
        id: ID,
        is_encrypted: true,
        chunk_len: 4096,
    }
}

#[test]
fn what_was_sealed_comes_back_whatever_its_length() {
    for sealer in sealers() {
        for len in [0_usize, 1, 8, 100, 5000, 100_000] {
            let plain: Vec<u8> = (0..len).map(|at| ((at * at) >> 3) as u8).collect();
            for kind in KINDS {
                let sealed = sealer.seal(kind, &plain).expect("sealed");
                assert_eq!(
                    sealer.open(kind, &sealed.id, &sealed.bytes).as_ref(),
                    Ok(&plain)
                );
                assert!(
                    !sealer.is_encrypted() || padded_len(sealed.bytes.len()) == sealed.bytes.len()
                );
            }
        }
    }
}

#[test]
fn the_same_sealed_twice_has_two_names() {
    for sealer in sealers() {
        assert_ne!(
            sealer.seal(SealedKind::Index, b"same").expect("sealed").id,
            sealer.seal(SealedKind::Index, b"same").expect("sealed").id
        );
    }
}

/// Under the name of the damaged bytes, as an attacker would put them who can also list them: the
/// seal alone must find it.
#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    for sealer in sealers() {
        let stored = sealer
            .seal(SealedKind::Record, b"a small object")
            .expect("sealed")
            .bytes;
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                sealer
                    .open(SealedKind::Record, &ObjectId::of(&damaged), &damaged)
                    .is_err(),
                "bit {bit}"
            );
        }
        for len in 0..stored.len() {
            assert!(
                sealer
                    .open(
                        SealedKind::Record,
                        &ObjectId::of(&stored[..len]),
                        &stored[..len]
                    )
                    .is_err(),
                "{len} bytes"
            );
        }
        let longer = [&stored[..], b"x"].concat();
        assert!(
            sealer
                .open(SealedKind::Record, &ObjectId::of(&longer), &longer)
                .is_err()
        );
    }
}

#[test]
fn objects_of_another_name_kind_repository_or_key_are_refused() {
    let secrets = secrets();
    let [plain, other_key] = sealers();
    let sealer = Sealer::encrypted(ID, &secrets);
    let elsewhere = Sealer::encrypted(RepositoryId([8; 16]), &secrets);
    let plain_elsewhere = Sealer::plain(RepositoryId([8; 16]));
    for (own, strangers) in [
        (&sealer, [&other_key, &elsewhere, &plain]),
        (&plain, [&plain_elsewhere, &sealer, &other_key]),
    ] {
        let (one, two) = (
            own.seal(SealedKind::Index, b"one").expect("sealed"),
            own.seal(SealedKind::Index, b"two").expect("sealed"),
        );
        assert_eq!(
            own.open(SealedKind::Index, &one.id, &two.bytes),
            Err(SealError::Name),
            "swapped"
        );
        assert_eq!(
            own.open(SealedKind::Record, &one.id, &one.bytes),
            Err(SealError::Head),
            "an index for a record"
        );
        for stranger in strangers {
            let refused = stranger.open(SealedKind::Index, &one.id, &one.bytes);
            assert!(
                matches!(refused, Err(SealError::Tag | SealError::Sealing)),
                "{refused:?}"
            );
        }
        // A part that was cut out and given another kind's head.
        let mut retold = own.head(SealedKind::Record).to_vec();
        retold.extend_from_slice(&one.bytes[super::HEAD_LEN..]);
        assert_eq!(
            own.open(SealedKind::Record, &ObjectId::of(&retold), &retold),
            Err(SealError::Tag)
        );
    }
}

#[test]
fn a_newer_version_is_named() {
    let [sealer, _] = sealers();
    let mut stored = sealer
        .seal(SealedKind::Index, b"one")
        .expect("sealed")
        .bytes;
    stored[4] = 9;
    assert_eq!(
        sealer.open(SealedKind::Index, &ObjectId::of(&stored), &stored),
        Err(SealError::Version(9))
    );
}

#[test]
fn an_envelope_that_promises_too_much_allocates_nothing() {
    let envelope = |codec: u8, plain_len: u32, rest: &[u8]| {
        [
            &[codec][..],
            &plain_len.to_le_bytes(),
            &(rest.len() as u32).to_le_bytes(),
            rest,
        ]
        .concat()
    };
    assert_eq!(unenveloped(&envelope(0, 3, b"abc")), Ok(b"abc".to_vec()));
    for hostile in [
        envelope(2, PLAIN_LEN_MAX as u32 + 1, b"abc"),
        envelope(0, 4, b"abc"),
        envelope(1, 3, b"abc"),
        envelope(2, 3, b"abc"),
    ] {
        assert!(unenveloped(&hostile).is_err(), "{hostile:?}");
    }
    assert!(
        unenveloped(&[envelope(0, 3, b"abc"), vec![0, 0, 1]].concat()).is_err(),
        "padding is zeros"
    );
}

#[test]
fn a_bundle_gives_each_part_and_hides_where_it_ends() {
    for sealer in sealers() {
        let mut bundle = Bundle::new(SealedKind::Maps);
        let plains: Vec<Vec<u8>> = (0..20_u8)
            .map(|nth| vec![nth; usize::from(nth) * 100])
            .collect();
        plains.iter().for_each(|plain| {
            bundle.push(sealer.seal_blob(SealedKind::Maps, plain).expect("sealed"));
        });
        let expected_len = bundle.len_with(0) - 4;
        let sealed = bundle.finish(&sealer).expect("sealed");
        let stored = &sealed.object.bytes;
        assert_eq!(
            stored.len(),
            if sealer.is_encrypted() {
                padded_len(expected_len)
            } else {
                expected_len
            }
        );
        for (plain, (offset, len)) in plains.iter().zip(&sealed.ranges) {
            let part = &stored[*offset as usize..(offset + len) as usize];
            assert_eq!(sealer.open_blob(SealedKind::Maps, part).as_ref(), Ok(plain));
        }
        let mut found =
            bundle_parts(&sealer, SealedKind::Maps, &sealed.object.id, stored).expect("parts");
        let mut ranges = sealed.ranges.clone();
        assert!(found.is_sorted());
        ranges.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, ranges);
        assert_eq!(
            sealed.ranges.is_sorted(),
            !sealer.is_encrypted(),
            "an order tells when parts came"
        );
        for len in [0, 7, 60, stored.len() / 2] {
            assert!(
                bundle_parts(
                    &sealer,
                    SealedKind::Maps,
                    &ObjectId::of(&stored[..len]),
                    &stored[..len]
                )
                .is_err()
            );
        }
    }
}

/// A role is proven with the key: nobody can take it away, give it, or write another.
#[test]
fn the_role_of_a_key_cannot_be_changed() {
    let secrets = secrets();
    let make = |role| {
        create_key_of(
            role,
            &secrets,
            &repository(),
            &password("right"),
            "mine",
            5,
            COST,
        )
        .expect("a key")
    };
    let (owner, writer) = (make(KeyRole::Owner), make(KeyRole::Writer));
    for (key, role) in [(&owner, KeyRole::Owner), (&writer, KeyRole::Writer)] {
        assert!(unlock(&repository(), &key.bytes, &password("right")).is_ok());
        assert_eq!(key_info(key.id, &key.bytes).expect("readable").role, role);
        let objects = Memory::new();
        let name = ObjectName::Key(key.id).to_string();
        objects.put(&name, &key.bytes).expect("room");
        let opened = unlock_any(&objects, &repository(), &password("right"));
        assert_eq!(opened.ok().map(|opened| opened.role), Some(role));
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("JSON");
    let (owner, writer) = (text(&owner.bytes), text(&writer.bytes));
    assert!(!owner.contains("role"), "keys are as they were");
    for changed in [
        writer.replace(r#""role":"writer","#, ""),
        writer.replace(r#""role":"writer""#, r#""role":"owner""#),
        writer.replace(r#""role":"writer""#, r#""role":"reader""#),
        owner.replace(r#""salt""#, r#""role":"writer","salt""#),
        // The statement that is proven is one text: a label must not pass for a role.
        writer
            .replace(r#""role":"writer","#, "")
            .replace(r#""mine""#, r#""mine\nrole writer""#),
    ] {
        assert!(changed != writer && changed != owner);
        let opened = unlock(&repository(), changed.as_bytes(), &password("right"));
        assert!(opened.is_err(), "{changed}");
    }
}

#[test]
fn only_the_right_password_or_key_file_opens_a_key() {
    let secrets = secrets();
    let file = KeyFile::generate().expect("random bytes");
    let by_password =
        create_key(&secrets, &repository(), &password("right"), "mine", 5, COST).expect("a key");
    let by_file = create_key(
        &secrets,
        &repository(),
        &Opener::KeyFile(file.clone()),
        "host",
        6,
        COST,
    )
    .expect("a key");
    assert_eq!(
        *unlock(&repository(), &by_password.bytes, &password("right"))
            .expect("opens")
            .0,
        *secrets.0
    );
    assert_eq!(
        *unlock(
            &repository(),
            &by_file.bytes,
            &Opener::KeyFile(file.clone())
        )
        .expect("opens")
        .0,
        *secrets.0
    );
    let other = Opener::KeyFile(KeyFile::generate().expect("random bytes"));
    for (stored, opener) in [
        (&by_password.bytes, password("wrong")),
        (&by_password.bytes, password("")),
        (&by_password.bytes, Opener::KeyFile(file.clone())),
        (&by_file.bytes, password("right")),
        (&by_file.bytes, other),
    ] {
        assert!(matches!(
            unlock(&repository(), stored, &opener),
            Err(KeyError::Wrong)
        ));
    }
    let info = key_info(by_file.id, &by_file.bytes).expect("readable");
    assert_eq!(
        (info.label.as_str(), info.is_password, info.time_ms),
        ("host", false, 6)
    );
    assert!(
        KeyFile::parse(&file.to_text()).is_some() && KeyFile::parse("vellum-key-1-00").is_none()
    );
}

#[test]
fn a_repository_that_states_something_else_opens_with_no_key() {
    let key = create_key(
        &secrets(),
        &repository(),
        &password("right"),
        "mine",
        5,
        COST,
    )
    .expect("a key");
    for changed in [
        RepositoryFile {
            is_encrypted: false,
            ..repository()
        },
        RepositoryFile {
            chunk_len: 8192,
            ..repository()
        },
        RepositoryFile {
            id: RepositoryId([8; 16]),
            ..repository()
        },
    ] {
        assert!(
            matches!(
                unlock(&changed, &key.bytes, &password("right")),
                Err(KeyError::Wrong)
            ),
            "{changed:?}"
        );
    }
}

#[test]
fn every_changed_byte_of_a_key_object_is_refused_and_none_costs_more_than_allowed() {
    let key = create_key(
        &secrets(),
        &repository(),
        &password("right"),
        "mine",
        5,
        COST,
    )
    .expect("a key")
    .bytes;
    for at in 0..key.len() {
        for bits in [1, 4] {
            let mut damaged = key.clone();
            damaged[at] ^= bits;
            assert!(
                unlock(&repository(), &damaged, &password("right")).is_err(),
                "byte {at}"
            );
        }
    }
    let text = String::from_utf8(key).expect("JSON");
    for (from, to) in [
        ("\"memory_kib\":64", "\"memory_kib\":4000000000"),
        ("\"memory_kib\":64", "\"memory_kib\":1048577"),
        ("\"passes\":1", "\"passes\":4000000000"),
        ("\"lanes\":1", "\"lanes\":0"),
        ("\"lanes\":1", "\"lanes\":17"),
        ("\"version\":1", "\"version\":2"),
    ] {
        let hostile = text.replace(from, to);
        assert_ne!(hostile, text, "{from} is there");
        assert!(
            matches!(
                unlock(&repository(), hostile.as_bytes(), &password("right")),
                Err(KeyError::Invalid(_))
            ),
            "{to}"
        );
    }
}

#[test]
fn a_damaged_key_of_somebody_else_locks_nobody_out() {
    let (objects, secrets) = (Memory::new(), secrets());
    for (opener, label) in [(password("one"), "one"), (password("two"), "two")] {
        let key = create_key(&secrets, &repository(), &opener, label, 5, COST).expect("a key");
        objects
            .put(&ObjectName::Key(key.id).to_string(), &key.bytes)
            .expect("put");
    }
    objects.plant(
        &ObjectName::Key(ObjectId([0; 32])).to_string(),
        b"not what its name says",
    );
    objects.plant(&ObjectName::Key(ObjectId::of(b"junk")).to_string(), b"junk");
    objects.plant("keys/../../etc/passwd", b"hostile");
    assert!(unlock_any(&objects, &repository(), &password("two")).is_ok());
    // A user whose key is not here is told that one of the keys may be theirs.
    let refused =
        unlock_any(&objects, &repository(), &password("three")).expect_err("no key opens");
    assert!(
        matches!(refused, KeyError::WrongOrDamaged(_)) && refused.to_string().contains("keys/"),
        "{refused}"
    );
}
