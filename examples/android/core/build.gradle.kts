// The sampler: plain Java with no dependency, so that it also runs, and is tested, on a JVM.

plugins {
    `java-library`
}

tasks.withType<JavaCompile>().configureEach {
    options.release.set(8)
    options.compilerArgs.addAll(listOf("-Xlint:all,-options", "-Werror"))
}
