//! The launches of `training.cu`: what heads need to learn on a GPU.

use super::{ELEMENT_THREADS, Floats, Gpu, LogitRows, define, element_blocks, failed, grid};
use crate::{Result, entropy::Summary};
use cudarc::driver::{DeviceRepr, PushKernelArg as _};

const THREADS: u32 = define("TRAINING_THREADS");
const TILE: usize = define("TILE") as usize;
const WARP: usize = define("WARP") as usize;
const SQUARES: usize = define("SQUARES") as usize;

/// Rows of f32 on a GPU. Operations take its first rows; it belongs to the [`Gpu`] that made it.
pub struct GpuRows {
    floats: Floats,
    columns: usize,
}

impl GpuRows {
    /// Rows that there is room for.
    pub fn rows(&self) -> usize {
        self.floats.len() / self.columns
    }
}

/// Which products are summed, in the order of BLAS: n for a matrix as it is, t for a transposed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// `x · wᵀ` of `x` `[rows, inner]` and `w` `[columns, inner]`: forward through a linear layer.
    Nt,
    /// `x · w` of `x` `[rows, inner]` and `w` `[inner, columns]`: backward through it.
    Nn,
    /// `gᵀ · x` of `g` `[inner, rows]` and `x` `[inner, columns]`: the gradient of its matrix.
    Tn,
}

impl Product {
    fn kernel(self) -> &'static str {
        match self {
            Self::Nt => "tiled_product_nt",
            Self::Nn => "tiled_product_nn",
            Self::Tn => "tiled_product_tn",
        }
    }
}

/// What becomes of the numbers that were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// They are replaced.
    Over,
    /// They are added to.
    Onto,
}

/// A parameter that learns, with its gradient and its moments, on a GPU.
pub struct GpuParameter {
    /// The parameter itself.
    pub value: GpuRows,
    /// Its gradient, summed over the rows since the last step.
    pub gradient: GpuRows,
    /// The running mean of the gradient.
    pub first: GpuRows,
    /// The running mean of its square.
    pub second: GpuRows,
}

/// The factors of one step of AdamW: `AdamW` of the source.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// What makes a mean of the summed gradient.
    pub mean: f32,
    /// What brings all gradients together down to their greatest length.
    pub clip: f32,
    /// What stays of the first moment.
    pub decay1: f32,
    /// What comes to it of the gradient.
    pub rest1: f32,
    /// What stays of the second moment.
    pub decay2: f32,
    /// What comes to it of the gradient's square.
    pub rest2: f32,
    /// One over the share of the first moment that is there after so few steps.
    pub correction1: f32,
    /// The same of the second one.
    pub correction2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// What weight decay leaves of the value.
    pub kept: f32,
    /// The learning rate.
    pub rate: f32,
}

// SAFETY: a `repr(C)` struct of plain numbers, as the source has it.
unsafe impl DeviceRepr for AdamWStep {}

impl Gpu {
    /// Rows of zeros.
    ///
    /// # Errors
    /// If the device has no room for them, or fails.
    pub fn zeros(&self, rows: usize, columns: usize) -> Result<GpuRows> {
        let floats = self.stream.alloc_zeros(rows * columns).map_err(failed)?;
        Ok(GpuRows { floats, columns })
    }

    /// Rows with these values.
    ///
    /// # Errors
    /// If the device has no room for them, or fails.
    pub fn rows(&self, values: &[f32], columns: usize) -> Result<GpuRows> {
        let floats = self.upload(values)?;
        Ok(GpuRows { floats, columns })
    }

    /// Replaces the first numbers by `values`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If there are more of them than numbers.
    pub fn replace(&self, rows: &mut GpuRows, values: &[f32]) -> Result<()> {
        self.write(values, &mut rows.floats)?;
        self.wait()
    }

    /// Brings all numbers to the host.
    ///
    /// # Errors
    /// If the device fails.
    pub fn values(&self, rows: &GpuRows) -> Result<Vec<f32>> {
        let mut values = vec![0.0; rows.floats.len()];
        self.read(&rows.floats, &mut values)?;
        Ok(values)
    }

    /// A parameter at `value`, before its first gradient.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    pub fn parameter(&self, value: &[f32], columns: usize) -> Result<GpuParameter> {
        let zeros = || self.zeros(value.len() / columns, columns);
        Ok(GpuParameter {
            value: self.rows(value, columns)?,
            gradient: zeros()?,
            first: zeros()?,
            second: zeros()?,
        })
    }

    /// The product of `a` and `b`, of which the first one has `rows` rows, written to `out`. All other sizes are
    /// the columns of the three. Each sum is one of fused multiply-adds in order of the inner index.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn multiply(
        &self,
        product: Product,
        (a, b): (&GpuRows, &GpuRows),
        rows: usize,
        out: &mut GpuRows,
        store: Store,
    ) -> Result<()> {
        let [height, inner, b_rows] = match product {
            Product::Nt => [rows, a.columns, out.columns],
            Product::Nn => [rows, a.columns, a.columns],
            Product::Tn => [a.columns, rows, rows],
        };
        let b_columns = if product == Product::Nt {
            inner
        } else {
            out.columns
        };
        assert!(a.rows() >= rows && out.rows() >= height, "short rows");
        assert!(
            b.rows() >= b_rows && b.columns == b_columns,
            "factors that do not fit"
        );
        let blocks = (out.columns.div_ceil(TILE), height.div_ceil(TILE));
        let [a, b, target] = [a, b, &*out].map(|rows| self.address(&rows.floats));
        let [height, width, inner] = [height, out.columns, inner].map(|size| size as u32);
        let adds = u32::from(store == Store::Onto);
        let mut launch = self.launch(self.kernel(product.kernel())?);
        launch.arg(&a).arg(&b).arg(&target);
        launch.arg(&height).arg(&width).arg(&inner).arg(&adds);
        // SAFETY: the arguments are those of `TILED_PRODUCT`, in order. It reads and writes what is within the
        // shapes alone, which the buffers hold, as checked above.
        unsafe { launch.launch(grid(blocks, THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// `out = x · gain + bias`, element by element in each of the first `rows` rows.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn scale(
        &self,
        x: &GpuRows,
        (gain, bias): (&GpuRows, Option<&GpuRows>),
        rows: usize,
        out: &mut GpuRows,
    ) -> Result<()> {
        let width = x.columns;
        assert!(
            [gain.columns, out.columns, bias.unwrap_or(gain).columns] == [width; 3],
            "rows of different lengths"
        );
        assert!(x.rows() >= rows && out.rows() >= rows, "short rows");
        let count = rows * width;
        let [x, gain, out] = [x, gain, &*out].map(|rows| self.address(&rows.floats));
        let bias = bias.map_or(0, |bias| self.address(&bias.floats));
        let (width, elements) = (width as u32, count as u64);
        let mut launch = self.launch(self.kernel("scale_rows")?);
        launch.arg(&x).arg(&gain).arg(&bias).arg(&out);
        launch.arg(&width).arg(&elements);
        // SAFETY: the arguments are those of `scale_rows`, in order; it stays below `elements`, and a row's length
        // in gain and bias, which have it, as checked above.
        unsafe { launch.launch(grid(element_blocks(count), ELEMENT_THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// Adds to `sums` the sum of `g · x` over the first `rows` rows, or of `g` where there is no `x`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn sum_columns(
        &self,
        g: &GpuRows,
        x: Option<&GpuRows>,
        rows: usize,
        sums: &mut GpuRows,
    ) -> Result<()> {
        let width = g.columns;
        let factor = x.unwrap_or(g);
        assert!(
            factor.columns == width && sums.columns == width,
            "rows of different lengths"
        );
        assert!(g.rows() >= rows && factor.rows() >= rows, "short rows");
        let x = x.map_or(0, |x| self.address(&x.floats));
        let [g, sums] = [g, &*sums].map(|rows| self.address(&rows.floats));
        let blocks = (width.div_ceil(WARP), 1);
        let (rows, width) = (rows as u32, width as u32);
        let mut launch = self.launch(self.kernel("sum_columns")?);
        launch.arg(&g).arg(&x).arg(&sums).arg(&rows).arg(&width);
        // SAFETY: the arguments are those of `sum_columns`, in order. It reads `rows` rows of g and x, and writes
        // one of sums, which the buffers hold, as checked above.
        unsafe { launch.launch(grid(blocks, THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// `out = silu(x)` of the first `rows` rows.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn silu(&self, x: &GpuRows, rows: usize, out: &mut GpuRows) -> Result<()> {
        self.launch_silu("silu", x, rows, out)
    }

    /// `g`, the gradient for `silu(x)`, becomes that for `x`, in the first `rows` rows.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn silu_back(&self, x: &GpuRows, rows: usize, g: &mut GpuRows) -> Result<()> {
        self.launch_silu("silu_back", x, rows, g)
    }

    fn launch_silu(&self, name: &str, x: &GpuRows, rows: usize, out: &mut GpuRows) -> Result<()> {
        assert_eq!(x.columns, out.columns, "rows of different lengths");
        assert!(x.rows() >= rows && out.rows() >= rows, "short rows");
        let count = rows * x.columns;
        let [x, out] = [x, &*out].map(|rows| self.address(&rows.floats));
        let elements = count as u64;
        let mut launch = self.launch(self.kernel(name)?);
        launch.arg(&x).arg(&out).arg(&elements);
        // SAFETY: the arguments are those of `silu` and `silu_back`, in order; both stay below `elements`.
        unsafe { launch.launch(grid(element_blocks(count), ELEMENT_THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// As [`Kernels::summarize`](crate::kernels::Kernels::summarize) and
    /// [`Kernels::cross_entropy`](crate::kernels::Kernels::cross_entropy) on the first `rows` rows of logits,
    /// which become the gradient: summaries, and cross-entropies in nats.
    ///
    /// # Errors
    /// If the vocabulary is above 262,144, or the device fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn cross_entropy(
        &self,
        teacher: &GpuRows,
        logits: &mut GpuRows,
        rows: usize,
    ) -> Result<(Vec<Summary>, Vec<f32>)> {
        let vocabulary = logits.columns;
        assert_eq!(teacher.columns, vocabulary, "another vocabulary");
        assert!(
            teacher.rows() >= rows && logits.rows() >= rows,
            "short rows"
        );
        if rows == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        let place = LogitRows {
            count: rows,
            vocabulary,
            offset: 0,
            stride: vocabulary,
        };
        let summaries = self.summarize_floats(&logits.floats, place)?;
        let losses = self.room(rows)?;
        let [teacher, x] = [teacher, &*logits].map(|rows| self.address(&rows.floats));
        let [columns, target] = [summaries.columns(), &losses].map(|floats| self.address(floats));
        let ids = vocabulary as u32;
        let mut launch = self.launch(self.kernel("cross_entropy")?);
        launch.arg(&teacher).arg(&x).arg(&columns).arg(&target);
        launch.arg(&ids);
        // SAFETY: the arguments are those of `cross_entropy`, in order. Block r reads and writes row r, and there
        // are so many in each buffer, as checked above.
        unsafe { launch.launch(grid((rows, 1), THREADS)?) }.map_err(failed)?;
        let mut cross_entropies = vec![0.0; rows];
        self.read(&losses, &mut cross_entropies)?;
        Ok((self.read_summaries(&summaries)?, cross_entropies))
    }

    /// The sum of the squares of all numbers.
    ///
    /// # Errors
    /// If the device fails.
    pub fn sum_squares(&self, rows: &GpuRows) -> Result<f64> {
        let count = rows.floats.len();
        let parts = count.div_ceil(SQUARES);
        let mut sums = vec![0.0f32; parts];
        let buffer = self.room(parts)?;
        let [x, target] = [&rows.floats, &buffer].map(|floats| self.address(floats));
        let elements = count as u64;
        let mut launch = self.launch(self.kernel("sum_squares")?);
        launch.arg(&x).arg(&target).arg(&elements);
        // SAFETY: the arguments are those of `sum_squares`, in order. Each block reads its part below `elements`,
        // and writes one sum, of which there is one for each.
        unsafe { launch.launch(grid((parts, 1), THREADS)?) }.map_err(failed)?;
        self.read(&buffer, &mut sums)?;
        Ok(sums.into_iter().map(f64::from).sum())
    }

    /// Moves a parameter against its gradient, which is zero after that.
    ///
    /// # Errors
    /// If the device fails.
    pub fn adamw(&self, parameter: &mut GpuParameter, step: AdamWStep) -> Result<()> {
        let GpuParameter {
            value,
            gradient,
            first,
            second,
        } = parameter;
        let count = value.floats.len();
        let all = [value, gradient, first, second];
        assert!(
            all.iter().all(|rows| rows.floats.len() == count),
            "a parameter of several sizes"
        );
        let [value, gradient, first, second] = all.map(|rows| self.address(&rows.floats));
        let elements = count as u64;
        let mut launch = self.launch(self.kernel("adamw")?);
        launch.arg(&value).arg(&gradient).arg(&first).arg(&second);
        launch.arg(&step).arg(&elements);
        // SAFETY: the arguments are those of `adamw`, in order; it stays below `elements`, which each buffer has.
        unsafe { launch.launch(grid(element_blocks(count), ELEMENT_THREADS)?) }.map_err(failed)?;
        Ok(())
    }
}
