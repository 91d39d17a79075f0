//! NumPy arrays of plain numbers, seen as bytes without the checks that take longer than a copy.
//!
//! rust-numpy keeps a table of borrowed arrays and compares dtypes as Python objects: a tenth of a
//! microsecond for each array, when a whole step of a replay buffer moves a few hundred bytes.

use std::ptr::null_mut;

use numpy::npyffi::flags::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ENSUREARRAY, NPY_ARRAY_WRITEABLE};
use numpy::npyffi::{
    NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArray_CheckExact, PyArray_Descr, PyArrayObject,
    get_type_object,
};
use pyo3::ffi::Py_INCREF;
use pyo3::prelude::*;

const BOOL: i32 = NPY_TYPES::NPY_BOOL as i32;
const FLOAT: i32 = NPY_TYPES::NPY_FLOAT as i32;

/// A C-contiguous `numpy.ndarray` of real numbers in the machine's byte order.
///
/// It borrows the Python object, and is to be used before any Python code can run: that could give
/// the array another shape.
pub(super) struct Plain<'a> {
    data: *mut u8,
    descr: *mut PyArray_Descr,
    kind: i32,
    shape: &'a [isize],
    bytes: usize,
    writeable: bool,
}

/// Bytes of one number by NumPy's type, 0 where that is no boolean, integer or float.
const SIZES: [usize; 24] = {
    let mut sizes = [0; 24];
    sizes[NPY_TYPES::NPY_BOOL as usize] = 1;
    sizes[NPY_TYPES::NPY_BYTE as usize] = 1;
    sizes[NPY_TYPES::NPY_UBYTE as usize] = 1;
    sizes[NPY_TYPES::NPY_SHORT as usize] = size_of::<std::ffi::c_short>();
    sizes[NPY_TYPES::NPY_USHORT as usize] = size_of::<std::ffi::c_ushort>();
    sizes[NPY_TYPES::NPY_INT as usize] = size_of::<std::ffi::c_int>();
    sizes[NPY_TYPES::NPY_UINT as usize] = size_of::<std::ffi::c_uint>();
    sizes[NPY_TYPES::NPY_LONG as usize] = size_of::<std::ffi::c_long>();
    sizes[NPY_TYPES::NPY_ULONG as usize] = size_of::<std::ffi::c_ulong>();
    sizes[NPY_TYPES::NPY_LONGLONG as usize] = 8;
    sizes[NPY_TYPES::NPY_ULONGLONG as usize] = 8;
    sizes[NPY_TYPES::NPY_FLOAT as usize] = 4;
    sizes[NPY_TYPES::NPY_DOUBLE as usize] = 8;
    sizes[NPY_TYPES::NPY_HALF as usize] = 2;
    sizes
};

/// Bytes of one number of NumPy's type `kind`, if that is a boolean, an integer or a float.
fn number_bytes(kind: i32) -> Option<usize> {
    let size = SIZES.get(usize::try_from(kind).ok()?);
    size.copied().filter(|&size| size > 0)
}

impl<'a> Plain<'a> {
    /// The numbers of `array`, or `None` if it is anything else or lies in memory otherwise.
    pub(super) fn of(array: &'a Bound<'_, PyAny>) -> Option<Self> {
        let object = array.as_ptr();
        // SAFETY: the object lives and the GIL is held; its exact type says that it is an array.
        let fields = unsafe {
            if PyArray_CheckExact(array.py(), object) == 0 {
                return None;
            }
            &(*object.cast::<PyArrayObject>()).fields
        };
        // SAFETY: every array has a dtype, which starts with the same fields in NumPy 1 and 2.
        let (order, kind) = unsafe {
            let dtype = &(*fields.descr).fields;
            (dtype.byteorder as u8, dtype.type_num)
        };
        let number = number_bytes(kind)?;
        if fields.flags & NPY_ARRAY_C_CONTIGUOUS == 0 || !matches!(order, b'=' | b'|') {
            return None;
        }
        let axes = usize::try_from(fields.nd).ok()?;
        let shape = match axes {
            0 => &[],
            // SAFETY: NumPy keeps `nd` lengths there; only without axes may the pointer be null.
            _ => unsafe { std::slice::from_raw_parts(fields.dimensions, axes) },
        };
        Some(Self {
            data: fields.data.cast(),
            descr: fields.descr,
            kind,
            shape,
            bytes: shape.iter().product::<isize>().cast_unsigned() * number,
            writeable: fields.flags & NPY_ARRAY_WRITEABLE != 0,
        })
    }

    /// An array of numbers of this type, which are whatever lies there. No Python code runs.
    pub(super) fn fresh<'py>(
        &self,
        py: Python<'py>,
        mut shape: Vec<isize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let axes = i32::try_from(shape.len())?;
        // SAFETY: the dtype is that of the array that `self` borrows, and the call takes a reference
        // of its own. There are as many lengths as axes; without memory it returns null.
        unsafe {
            Py_INCREF(self.descr.cast());
            let array = PY_ARRAY_API.PyArray_NewFromDescr(
                py,
                get_type_object(py, NpyTypes::PyArray_Type),
                self.descr,
                axes,
                shape.as_mut_ptr(),
                null_mut(),
                null_mut(),
                0,
                null_mut(),
            );
            Bound::from_owned_ptr_or_err(py, array)
        }
    }

    /// Lengths of the axes.
    pub(super) fn shape(&self) -> &'a [isize] {
        self.shape
    }

    /// Whether the first two axes have these lengths.
    pub(super) fn begins_with(&self, lengths: [usize; 2]) -> bool {
        let shape = self.shape.get(..2).map(|axes| [axes[0], axes[1]]);
        shape == Some(lengths.map(|length| length.cast_signed()))
    }

    /// Length of the first axis, 0 if there is none.
    pub(super) fn len(&self) -> usize {
        self.shape.first().map_or(0, |len| len.cast_unsigned())
    }

    /// Length of the second axis, 1 if there is none.
    pub(super) fn row_len(&self) -> usize {
        self.shape.get(1).map_or(1, |len| len.cast_unsigned())
    }

    /// Bytes of all numbers.
    pub(super) fn size(&self) -> usize {
        self.bytes
    }

    /// Whether the numbers are of one type.
    pub(super) fn is_like(&self, other: &Plain<'_>) -> bool {
        self.kind == other.kind
    }

    /// Whether they are of the type float32.
    pub(super) fn is_f32(&self) -> bool {
        f32::is_kind(self.kind)
    }

    /// Whether [`store`](Self::store) can put `row` into a row of this column: the numbers are of
    /// one type, or booleans among float32, and but for axes of length one at the end the shapes
    /// are the same.
    pub(super) fn takes(&self, row: &Plain<'_>) -> bool {
        let Some((_, wanted)) = self.shape.split_first() else {
            return false;
        };
        let same = self.kind == row.kind || (self.is_f32() && row.kind == BOOL);
        same && self.writeable && trimmed(wanted) == trimmed(row.shape)
    }

    /// Copies `row`, which may lie in this column, into row `at`.
    ///
    /// # Panics
    /// If the column does not take as many numbers of that type or has no row `at`.
    pub(super) fn store(&self, at: usize, row: &Plain<'_>) {
        assert!(at < self.len() && self.writeable);
        let width = self.bytes / self.len();
        let (same, flags) = (self.kind == row.kind, self.is_f32() && row.kind == BOOL);
        assert!((same && row.bytes == width) || (flags && 4 * row.bytes == width));
        // SAFETY: row `at` is inside the column, and the GIL keeps both arrays as they are. Of the
        // same type they have as many bytes. Of booleans there is one byte for each four of the
        // column; those that others look at are not kept as Rust's references.
        unsafe {
            let to = self.data.add(at * width);
            if self.kind == row.kind {
                row.data.copy_to(to, width);
                return;
            }
            let to = to.cast::<f32>();
            for i in 0..row.bytes {
                to.add(i)
                    .write_unaligned(f32::from(row.data.add(i).read() != 0));
            }
        }
    }

    /// Whether [`store_f32`](Self::store_f32) can put `count` numbers into a row of this column.
    pub(super) fn takes_f32(&self, count: usize) -> bool {
        let row = self.shape.get(1..).map(trimmed);
        let fits = match row {
            Some([]) => count == 1,
            Some([len]) => len.cast_unsigned() == count,
            _ => false,
        };
        fits && self.is_f32() && self.writeable
    }

    /// Writes `numbers` into row `at` of this float32 column.
    ///
    /// # Panics
    /// If the column does not take as many or has no row `at`.
    pub(super) fn store_f32(&self, at: usize, numbers: &[f32]) {
        let bytes = size_of_val(numbers);
        assert!(at < self.len() && self.takes_f32(numbers.len()));
        // SAFETY: row `at` has as many bytes and is inside the column.
        unsafe {
            let to = self.data.add(at * bytes);
            numbers.as_ptr().cast::<u8>().copy_to(to, bytes);
        }
    }

    /// The bytes.
    ///
    /// # Safety
    /// Nothing may write to the array while they are used.
    pub(super) unsafe fn bytes(&self) -> &'a [u8] {
        // An array without elements may have any pointer.
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: the array has as many bytes, in one piece.
        unsafe { std::slice::from_raw_parts(self.data, self.bytes) }
    }

    /// The bytes, to be written to; `None` for a read-only array.
    ///
    /// # Safety
    /// Nothing else may read or write the array while they are used.
    pub(super) unsafe fn bytes_mut(&self) -> Option<&'a mut [u8]> {
        if self.bytes == 0 {
            return Some(&mut []);
        }
        // SAFETY: the array has as many bytes, in one piece.
        self.writeable
            .then(|| unsafe { std::slice::from_raw_parts_mut(self.data, self.bytes) })
    }

    /// Whether a byte belongs to both.
    pub(super) fn overlaps(&self, other: &Plain<'_>) -> bool {
        let (start, other_start) = (self.data.addr(), other.data.addr());
        start < other_start + other.bytes && other_start < start + self.bytes
    }

    fn has_shape(&self, shape: &[usize]) -> bool {
        let lengths = self.shape.iter().map(|len| len.cast_unsigned());
        lengths.eq(shape.iter().copied())
    }

    /// The numbers of an array of this type, `None` for any other one.
    ///
    /// # Safety
    /// Nothing may write to the array while they are used.
    pub(super) unsafe fn numbers<T: Number>(&self) -> Option<&'a [T]> {
        let numbers = self.data.cast::<T>();
        if self.bytes == 0 || !T::is_kind(self.kind) || !numbers.is_aligned() {
            return None;
        }
        // SAFETY: the array is aligned and has as many bytes, in one piece.
        Some(unsafe { std::slice::from_raw_parts(numbers, self.bytes / size_of::<T>()) })
    }
}

/// Numbers that NumPy has, too.
///
/// # Safety
/// Whatever bytes lie where NumPy's type says that there is such a number, they are one.
pub(crate) unsafe trait Number: Copy {
    /// Whether NumPy's type of this number is theirs.
    fn is_kind(kind: i32) -> bool;
}

// SAFETY: NumPy's `float32` is an IEEE float of four bytes.
unsafe impl Number for f32 {
    fn is_kind(kind: i32) -> bool {
        kind == FLOAT
    }
}

// SAFETY: the kinds are signed integers, and their size is asked for.
unsafe impl Number for i64 {
    fn is_kind(kind: i32) -> bool {
        let long = [NPY_TYPES::NPY_LONG as i32, NPY_TYPES::NPY_LONGLONG as i32];
        long.contains(&kind) && number_bytes(kind) == Some(8)
    }
}

/// What NumPy makes of an object: an array in one piece, whose bytes are only read here.
pub(crate) struct OnePiece<'py>(Bound<'py, PyAny>);

impl<'py> OnePiece<'py> {
    /// Looks at the memory of `object`, or at a copy if the numbers do not lie there one after the
    /// other.
    pub(crate) fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ENSUREARRAY;
        // SAFETY: the object lives and the GIL is held; without a dtype any is taken. The call gives
        // a new reference, or null and an exception.
        let array = unsafe {
            let (py, any) = (object.py(), null_mut());
            let array =
                PY_ARRAY_API.PyArray_FromAny(py, object.as_ptr(), any, 0, 0, flags, null_mut());
            Bound::from_owned_ptr_or_err(py, array)?
        };
        Ok(Self(array))
    }

    /// Whether there are only float32 numbers.
    pub(crate) fn is_f32(&self) -> bool {
        Plain::of(&self.0).is_some_and(|plain| plain.is_f32())
    }

    /// Whether these are the bytes of the array.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        // SAFETY: nobody writes while the GIL is held, and the comparison runs no Python code.
        Plain::of(&self.0).is_some_and(|plain| unsafe { plain.bytes() } == bytes)
    }

    /// A copy of the bytes, or `None` if they are not plain numbers.
    pub(crate) fn to_vec(&self) -> Option<Vec<u8>> {
        // SAFETY: nobody writes while the GIL is held, and no Python code runs meanwhile.
        Plain::of(&self.0).map(|plain| unsafe { plain.bytes() }.to_vec())
    }
}

/// Copies the numbers of an array of `shape` to `to`. Returns whether it is such an array.
pub(crate) fn copy_numbers<T: Number>(
    array: &Bound<'_, PyAny>,
    shape: &[usize],
    to: &mut Vec<T>,
) -> bool {
    let Some(plain) = Plain::of(array).filter(|plain| plain.has_shape(shape)) else {
        return false;
    };
    // SAFETY: nothing else runs before they are copied.
    let Some(numbers) = (unsafe { plain.numbers() }) else {
        return false;
    };
    to.clear();
    to.extend_from_slice(numbers);
    true
}

/// Axes of length one at the end do not matter.
fn trimmed(shape: &[isize]) -> &[isize] {
    let kept = shape.iter().rposition(|&len| len != 1);
    &shape[..kept.map_or(0, |last| last + 1)]
}
