package ddpm.sample

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.drawable.BitmapDrawable
import android.os.Bundle
import android.system.Os
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.ProgressBar
import android.widget.Spinner
import android.widget.TextView
import ddpm.OneCall
import java.util.concurrent.CancellationException
import java.util.concurrent.Executors

/** One screen: a seed, a class, how strongly it is followed, and the picture as it denoises. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()

    /** Opened and used on the worker's thread only. */
    private var model: OneCall? = null

    @Volatile
    private var cancelled = false

    private val seed by lazy { findViewById<EditText>(R.id.seed) }
    private val label by lazy { findViewById<Spinner>(R.id.label) }
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
        label.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, CLASSES)
        generate.setOnClickListener { start() }
        cancel.setOnClickListener { cancelled = true }
    }

    override fun onDestroy() {
        cancelled = true
        worker.execute { model?.close() } // after the run, which ends at its next step
        worker.shutdown()
        super.onDestroy()
    }

    private fun start() {
        val wantedSeed = seed.text.toString().toLongOrNull()
        val scale = guidance.text.toString().trim().toFloatOrNull()
        if (wantedSeed == null || scale == null) {
            status.text = getString(if (wantedSeed == null) R.string.no_seed else R.string.no_guidance)
            return
        }
        val settings = OneCall.Settings() // null: fixed in the file
        settings.seed = wantedSeed
        settings.labels = longArrayOf(label.selectedItemPosition.toLong())
        settings.guidance = scale
        cancelled = false
        generate.isEnabled = false
        cancel.isEnabled = true
        status.text = getString(R.string.running)
        picture.contentDescription = getString(R.string.preview)
        worker.execute {
            val outcome = make(settings)
            runOnUiThread {
                generate.isEnabled = true
                cancel.isEnabled = false
                status.text = outcome
            }
        }
    }

    /** Makes one picture, on the worker's thread, and returns how it ended. */
    private fun make(settings: OneCall.Settings): String {
        val started = System.nanoTime()
        try {
            val opened = model ?: OneCall.open(assets.open("unet.slice.onnx").use { it.readBytes() }, 0)
            model = opened
            opened.pictures(settings) { step, steps, preview ->
                show(step, steps, bitmap(preview))
                !cancelled
            }
            runOnUiThread { picture.contentDescription = getString(R.string.picture, settings.seed) }
            return getString(R.string.done, (System.nanoTime() - started) * 1e-9)
        } catch (_: CancellationException) {
            return getString(R.string.cancelled)
        } catch (refused: OneCall.Refused) {
            return refused.message.orEmpty()
        }
    }

    private fun show(step: Int, steps: Int, preview: Bitmap) = runOnUiThread {
        progress.max = steps
        progress.progress = step
        progress.contentDescription = getString(R.string.step_of, step, steps)
        // a pixel of the model is many of the screen's: squares, not a blur
        picture.setImageDrawable(BitmapDrawable(resources, preview).apply { isFilterBitmap = false })
    }

    /** Returns the first of some pictures, of 1 channel or 3, as a bitmap. */
    private fun bitmap(shown: OneCall.Pictures): Bitmap {
        val colours = IntArray(shown.height * shown.width) { k ->
            val level = { c: Int -> shown.pixels[k * shown.channels + c % shown.channels].toInt() and 0xFF }
            (0xFF shl 24) or (level(0) shl 16) or (level(1) shl 8) or level(2)
        }
        return Bitmap.createBitmap(colours, shown.width, shown.height, Bitmap.Config.ARGB_8888)
    }

    private companion object {
        /** Those of the shipped model, in their order. */
        val CLASSES = listOf(
            "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
        )
    }
}
