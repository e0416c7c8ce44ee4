//! What is carried is what a general codec says, however it is cut.

use proptest::prelude::*;

use super::*;

type Request = v1::StreamMultiplyNextRequest;

fn framed(message: &Request) -> Vec<u8> {
    let mut bytes = vec![0; PREFIX_BYTES];
    message.encode(&mut bytes).unwrap();
    let length = (bytes.len() - PREFIX_BYTES) as u32;
    bytes[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn whole(carried: Carried<Request>) -> Request {
    assert!(carried.message.payload.is_empty());
    Request { payload: carried.payload.concat().into(), ..carried.message }
}

fn decode_all(bytes: &[u8], sizes: &[usize]) -> Result<Vec<Request>, ServiceError> {
    let mut decoder = Decoder::new(1 << 20);
    let (mut found, mut rest) = (Vec::new(), bytes);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (segment, after) = rest.split_at(rest.len().min(*size));
        rest = after;
        decoder.push(Bytes::copy_from_slice(segment));
        while let Some(carried) = decoder.next_message()? {
            found.push(whole(carried));
        }
    }
    assert!(!decoder.is_within_message());
    Ok(found)
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let fingerprint = prop::collection::vec(any::<u8>(), 0..40);
    let request = ("[a-z]{0,20}", any::<u64>(), any::<u64>(), payload, fingerprint);
    let request = request.prop_map(|(name, step, offset, payload, fingerprint)| Request {
        name,
        step,
        offset,
        payload: payload.into(),
        fingerprint,
    });
    prop::collection::vec(request, 0..5)
}

proptest! {
    #[test]
    fn what_a_general_codec_wrote_is_read(requests in requests(), sizes in prop::collection::vec(1_usize..200, 1..5)) {
        let bytes: Vec<u8> = requests.iter().flat_map(framed).collect();
        prop_assert_eq!(decode_all(&bytes, &sizes).unwrap(), requests);
    }

    #[test]
    fn what_is_written_a_general_codec_reads(requests in requests()) {
        for request in requests {
            let (head, payload) = encode(request.clone());
            prop_assert_eq!(&payload, &request.payload);
            let bytes = [head, payload].concat();
            prop_assert_eq!(bytes.len() - PREFIX_BYTES, Buf::get_u32(&mut &bytes[1..]) as usize);
            prop_assert_eq!(Request::decode(&bytes[PREFIX_BYTES..]).unwrap(), request);
        }
    }

    /// Whatever comes in, it is messages or an error; where it is messages, a general codec agrees.
    #[test]
    fn noise_is_refused_as_a_general_codec_refuses_it(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let length = (bytes.len() as u32).to_be_bytes();
        let framed = [&[0], &length[..], &bytes].concat();
        if let Ok(found) = decode_all(&framed, &[7]) {
            prop_assert_eq!(found, vec![Request::decode(&bytes[..]).unwrap()]);
        }
    }
}

#[test]
fn a_payload_is_not_copied() {
    let payload = Bytes::from(vec![7; 5000]);
    let request = Request { step: 3, payload: payload.clone(), ..Request::default() };
    let (head, carried) = encode(request);
    assert_eq!(carried.as_ptr(), payload.as_ptr());
    let mut decoder = Decoder::<Request>::new(1 << 20);
    decoder.push(head);
    decoder.push(carried.slice(..2000));
    assert!(decoder.next_message().unwrap().is_none());
    decoder.push(carried.slice(2000..));
    let Carried { message, payload: pieces } = decoder.next_message().unwrap().unwrap();
    assert_eq!(message.step, 3);
    assert_eq!(
        pieces.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>(),
        [payload.as_ptr(), payload[2000..].as_ptr()]
    );
}

#[test]
fn what_is_too_long_or_compressed_is_refused_before_it_is_read() {
    let mut decoder = Decoder::<Request>::new(100);
    decoder.push(Bytes::from_static(&[0, 0, 0, 0, 101]));
    assert!(matches!(decoder.next_message(), Err(ServiceError::MessageOverLimit { .. })));
    let mut decoder = Decoder::<Request>::new(100);
    decoder.push(Bytes::from_static(&[1, 0, 0, 0, 1]));
    assert!(matches!(decoder.next_message(), Err(ServiceError::Malformed(_))));
    let long = Request { name: "a".repeat(MAX_HEAD_BYTES + 1), ..Request::default() };
    assert!(matches!(decode_all(&framed(&long), &[1000]), Err(ServiceError::Malformed(_))));
}

/// Everything beside the payload is gathered, so all of it counts: names, numbers of either width, fields
/// that are not known.
#[test]
fn a_head_has_a_bound_whatever_it_is_made_of() {
    let message = |field: &[u8], times: usize| {
        let body = field.repeat(times);
        let mut bytes = vec![0; PREFIX_BYTES];
        bytes[1..].copy_from_slice(&(body.len() as u32).to_be_bytes());
        [bytes, body].concat()
    };
    let fields: [(&str, &[u8]); 6] = [
        ("a known number", &[2 << 3, 1]),
        ("an unknown number of many bytes", &[15 << 3, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("a number written longer than it is", &[2 << 3, 0x81, 0x80, 0x80, 0]),
        ("eight bytes", &[15 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("four bytes", &[15 << 3 | 5, 0, 0, 0, 0]),
        ("an empty string", &[15 << 3 | 2, 0]),
    ];
    for (what, field) in fields {
        let few = message(field, 100);
        assert_eq!(decode_all(&few, &[1000]).map(|found| found.len()), Ok(1), "{what}");
        let many = message(field, 1 << 16);
        assert!(matches!(decode_all(&many, &[1000]), Err(ServiceError::Malformed(_))), "{what}");
    }
    // A payload is not gathered.
    let long = Request { payload: vec![7; 3 * MAX_HEAD_BYTES].into(), ..Request::default() };
    assert_eq!(decode_all(&framed(&long), &[1000]), Ok(vec![long]));
}
