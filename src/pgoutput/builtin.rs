//! The types that every Postgres has, by the fixed OIDs of its `pg_type.dat`. What is not listed is asked of the
//! catalogue, as are types of later versions.

use std::sync::Arc;

use super::value::{Array, Kind};

/// Scalars that arrive as their text.
#[rustfmt::skip]
const TEXT: &[u32] = &[
    17, 18, 19, 24, 25, 26, 27, 28, 29, 142, 600, 601, 602, 603, 604, 628, 650, 718, 774, 790, 829, 869, 1033,
    1042, 1043, 1082, 1083, 1186, 1266, 1560, 1562, 1790, 2202, 2203, 2204, 2205, 2206, 2950, 2970, 3220, 3614,
    3615, 3734, 3769, 3904, 3906, 3908, 3910, 3912, 3926, 4072, 4089, 4096, 4191, 4451, 4532, 4533, 4534, 4535,
    4536, 5038, 5069,
];

/// Arrays with the type of their elements.
#[rustfmt::skip]
const ARRAYS: &[(u32, u32)] = &[
    (143, 142), (199, 114), (271, 5069), (629, 628), (651, 650), (719, 718), (775, 774), (791, 790), (1000, 16),
    (1001, 17), (1002, 18), (1003, 19), (1005, 21), (1006, 22), (1007, 23), (1008, 24), (1009, 25), (1010, 27),
    (1011, 28), (1012, 29), (1013, 30), (1014, 1042), (1015, 1043), (1016, 20), (1017, 600), (1018, 601),
    (1019, 602), (1020, 603), (1021, 700), (1022, 701), (1027, 604), (1028, 26), (1034, 1033), (1040, 829),
    (1041, 869), (1115, 1114), (1182, 1082), (1183, 1083), (1185, 1184), (1187, 1186), (1231, 1700), (1270, 1266),
    (1561, 1560), (1563, 1562), (2201, 1790), (2207, 2202), (2208, 2203), (2209, 2204), (2210, 2205), (2211, 2206),
    (2949, 2970), (2951, 2950), (3221, 3220), (3643, 3614), (3645, 3615), (3735, 3734), (3770, 3769), (3807, 3802),
    (3905, 3904), (3907, 3906), (3909, 3908), (3911, 3910), (3913, 3912), (3927, 3926), (4073, 4072), (4090, 4089),
    (4097, 4096), (4192, 4191), (5039, 5038), (6150, 4451), (6151, 4532), (6152, 4533), (6153, 4534), (6155, 4535),
    (6157, 4536),
];

const BOX: u32 = 603;

/// How a built-in type's text becomes JSON; `None` for a type that is not listed here.
pub(super) fn kind(type_id: u32) -> Option<Kind> {
    Some(match type_id {
        16 => Kind::Bool,
        // int8, int2, int4, float4, float8, numeric
        20 | 21 | 23 | 700 | 701 | 1700 => Kind::Number,
        // json, jsonb
        114 | 3802 => Kind::Json,
        1114 => Kind::Timestamp,
        1184 => Kind::TimestampWithZone,
        22 => Kind::NumberVector,
        30 => Kind::OidVector,
        _ if TEXT.binary_search(&type_id).is_ok() => Kind::Text,
        _ => {
            let place = ARRAYS.binary_search_by_key(&type_id, |(array, _)| *array).ok()?;
            let (_, element) = ARRAYS[place];
            let delimiter = if element == BOX { b';' } else { b',' };
            Kind::Array(Arc::new(Array { element: kind(element)?, delimiter }))
        }
    })
}

/// Whether a column of this type arrives as a string where numbers that JSON readers may round are asked for as
/// strings: int8, float8 and numeric, as in Hasura, which counts money as well; that is a string anyway.
pub(super) fn is_big_number(type_id: u32) -> bool {
    matches!(type_id, 20 | 701 | 1700)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_for_the_search() {
        assert!(TEXT.is_sorted() && ARRAYS.is_sorted());
        assert!(ARRAYS.iter().all(|(array, _)| kind(*array).is_some()));
    }
}
