package ddpm.sample

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.drawable.BitmapDrawable
import android.os.Bundle
import android.system.Os
import android.view.View
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.ProgressBar
import android.widget.Spinner
import android.widget.TextView
import ddpm.Ddpm
import ddpm.DdpmException
import ddpm.Guidance
import ddpm.OrtModel
import ddpm.Progress
import ddpm.Settings
import java.util.concurrent.CancellationException
import java.util.concurrent.Executors

/** One screen: a seed, a number of steps or a plan, a class where the model has any, and the picture as it denoises. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()

    /** Opened and used on the worker's thread only. */
    private var model: OrtModel? = null

    /** The names of the model's plans, as they are offered below the steps; none until the model is open. */
    private var plans = emptyList<String>()

    @Volatile
    private var cancelled = false

    private val seed by lazy { findViewById<EditText>(R.id.seed) }
    private val steps by lazy { findViewById<EditText>(R.id.steps) }
    private val plan by lazy { findViewById<Spinner>(R.id.plan) }
    private val label by lazy { findViewById<EditText>(R.id.label) }
    private val guidance by lazy { findViewById<EditText>(R.id.guidance) }
    private val generate by lazy { findViewById<Button>(R.id.generate) }
    private val cancel by lazy { findViewById<Button>(R.id.cancel) }
    private val progress by lazy { findViewById<ProgressBar>(R.id.progress) }
    private val status by lazy { findViewById<TextView>(R.id.status) }
    private val picture by lazy { findViewById<ImageView>(R.id.picture) }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", false) // before ONNX Runtime is loaded
        setContentView(R.layout.activity_main)
        generate.setOnClickListener { start() }
        cancel.setOnClickListener { cancelled = true }
        worker.execute { offerPlans() }
    }

    override fun onDestroy() {
        cancelled = true
        worker.execute { model?.close() } // after the run, which ends at its next step
        worker.shutdown()
        super.onDestroy()
    }

    private fun start() {
        val wantedSeed = seed.text.toString().toLongOrNull()
        val wantedSteps = steps.text.toString().toIntOrNull()
        if (wantedSeed == null || wantedSteps == null) {
            status.text = getString(if (wantedSeed == null) R.string.no_seed else R.string.no_steps)
            return
        }
        val scale = guidance.text.toString().trim()
        if (scale.isNotEmpty() && scale.toDoubleOrNull() == null) {
            status.text = getString(R.string.no_guidance)
            return
        }
        val settings = Settings() // what stays null is the file's default
        settings.n = 1
        settings.plan = plans.getOrNull(plan.selectedItemPosition - 1)
        if (settings.plan == null) {
            settings.numSteps = wantedSteps
            settings.sampler = "ddim"
            settings.eta = 0.0
        }
        settings.seed = wantedSeed
        settings.label = label.text.toString().trim().ifEmpty { null }
        settings.guidance = scale.toDoubleOrNull()?.let { Guidance(it, null) }
        cancelled = false
        generate.isEnabled = false
        cancel.isEnabled = true
        status.text = getString(R.string.running)
        picture.contentDescription = getString(R.string.preview)
        worker.execute {
            val outcome = sample(settings)
            runOnUiThread {
                generate.isEnabled = true
                cancel.isEnabled = false
                status.text = outcome
            }
        }
    }

    /** Makes one picture, on the worker's thread, and returns how it ended. */
    private fun sample(settings: Settings): String {
        val started = System.nanoTime()
        try {
            val opened = opened()
            val shape = opened.spec().pictureShape()
            val report = Progress { step, numSteps, _, x_0 ->
                show(step, numSteps, bitmap(x_0, shape))
                !cancelled
            }
            val x = Ddpm.sample(opened, opened.spec(), settings, report)
            val finished = bitmap(x, shape)
            runOnUiThread {
                show(finished)
                picture.contentDescription = getString(R.string.picture, settings.seed)
            }
            return getString(R.string.done, (System.nanoTime() - started) * 1e-9)
        } catch (_: CancellationException) {
            return getString(R.string.cancelled)
        } catch (refusal: DdpmException) {
            return refusal.message.orEmpty()
        }
    }

    /** Opens the model ahead of the first run, on the worker's thread, and shows what plans it carries, if any. */
    private fun offerPlans() {
        val offered = try {
            opened().spec().plans
        } catch (_: DdpmException) {
            return // told when a picture is wanted
        }
        if (offered.isEmpty()) return
        val ways = offered.map { (name, table) -> getString(R.string.by_plan, name, table.rows.size) }
        runOnUiThread {
            plans = offered.keys.toList()
            val items = listOf(getString(R.string.by_steps)) + ways
            plan.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, items)
            findViewById<View>(R.id.plans).visibility = View.VISIBLE
        }
    }

    private fun opened(): OrtModel {
        val opened = model ?: OrtModel.open(assets.open("unet.onnx").use { it.readBytes() }, 0)
        model = opened
        return opened
    }

    private fun show(step: Int, numSteps: Int, preview: Bitmap) = runOnUiThread {
        progress.max = numSteps
        progress.progress = step
        progress.contentDescription = getString(R.string.step_of, step, numSteps)
        show(preview)
    }

    private fun show(bitmap: Bitmap) {
        // a pixel of the model is many of the screen's: squares, not a blur
        picture.setImageDrawable(BitmapDrawable(resources, bitmap).apply { isFilterBitmap = false })
    }

    /** Returns the first image of a batch, (C, H, W) with C 1 or 3, as a bitmap of its own. */
    private fun bitmap(images: FloatArray, shape: IntArray): Bitmap {
        val (channels, height, width) = shape
        val pixels = Ddpm.toUint8(images, shape)
        val colours = IntArray(height * width) { k ->
            val level = { channel: Int -> pixels[k * channels + channel % channels].toInt() and 0xFF }
            (0xFF shl 24) or (level(0) shl 16) or (level(1) shl 8) or level(2)
        }
        return Bitmap.createBitmap(colours, width, height, Bitmap.Config.ARGB_8888)
    }
}
