plugins {
    id("com.android.application")
}

android {
    namespace = "ddpm.sample"
    compileSdk = 36

    defaultConfig {
        applicationId = "ddpm.sample"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

dependencies {
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.27.0")
}

/** Copies the model into the assets at build time; README.md has the command that exports it. */
abstract class CopyModel : DefaultTask() {
    @get:InputFile
    abstract val model: RegularFileProperty

    @get:OutputDirectory
    abstract val assets: DirectoryProperty

    @TaskAction
    fun copy() {
        val file = model.get().asFile
        file.copyTo(assets.get().file(file.name).asFile, overwrite = true)
    }
}

androidComponents {
    onVariants { variant ->
        val copyModel = tasks.register<CopyModel>("${variant.name}CopyModel") {
            model.set(layout.projectDirectory.file("../unet.slice.onnx"))
        }
        variant.sources.assets?.addGeneratedSourceDirectory(copyModel, CopyModel::assets)
    }
}
